{{- define "injector.labels" -}}
app.kubernetes.io/name: tcp-sniffer-injector
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- define "injector.selector" -}}
app.kubernetes.io/name: tcp-sniffer-injector
{{- end }}
