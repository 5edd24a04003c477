#!/usr/bin/env bash
# Makes a CA and the injector's certificate, and writes generated/secret.yaml and generated/ca-bundle.yaml beside this
# script. The CA stays for the next time, so that a renewal needs no new caBundle while replicas still show the old one;
# its key is in generated/ca.key: keep the folder, and keep it out of version control.
#
#   ./generate.sh [--namespace NAME] [--days N]
set -euo pipefail
umask 077

namespace=tcp-sniffer
days=365
while (($#)); do
    case $1 in
    --namespace) namespace=${2:?"--namespace needs a name"} && shift 2 ;;
    --days) days=${2:?"--days needs a number"} && shift 2 ;;
    *) echo "usage: $0 [--namespace NAME] [--days N]" >&2 && exit 1 ;;
    esac
done

name=tcp-sniffer-injector
cd "$(dirname "$0")"
mkdir -p generated
cd generated

if [[ ! -s ca.crt || ! -s ca.key ]]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -days 3650 \
        -subj "/CN=$name CA" -keyout ca.key -out ca.crt \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign"
fi
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 \
    -subj "/CN=$name.$namespace.svc" -keyout tls.key -out tls.csr
openssl x509 -req -sha256 -days "$days" -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out tls.crt -extfile <(
    echo "subjectAltName=DNS:$name.$namespace.svc,DNS:$name.$namespace.svc.cluster.local"
    echo "basicConstraints=critical,CA:FALSE"
    echo "keyUsage=critical,digitalSignature"
    echo "extendedKeyUsage=serverAuth"
)

cat >secret.yaml <<EOF
apiVersion: v1
kind: Secret
metadata:
  name: $name-tls
  namespace: $namespace
  labels:
    app.kubernetes.io/name: $name
type: kubernetes.io/tls
data:
  tls.crt: $(base64 <tls.crt | tr -d '\n')
  tls.key: $(base64 <tls.key | tr -d '\n')
EOF
bundle=$(base64 <ca.crt | tr -d '\n')
cat >ca-bundle.yaml <<EOF
- op: add
  path: /webhooks/0/clientConfig/caBundle
  value: $bundle
- op: add
  path: /webhooks/1/clientConfig/caBundle
  value: $bundle
EOF
echo "wrote $PWD/secret.yaml and ca-bundle.yaml; the certificate is good for $days days"
