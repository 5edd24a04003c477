"""`tcp-sniffer doctor` in real conditions: what it finds, and its exit code."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
import trustme

from sniffer import doctor
from sniffer.capture.interfaces import addresses, interfaces, is_up
from sniffer.config import SnifferConfig
from tests import http2
from tests.captures import connection, write
from tests.daemon import DEMO, ROOT, SECONDS, exchanges, free_port, needs_capture, silent_server, web_server


def start(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """The real program."""
    command = [*prefix, sys.executable, "-m", "sniffer", "doctor", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


Report = dict[str, tuple[str, str]]


def report(process: subprocess.Popen[str], *, meanwhile: Callable[[], None] = lambda: None) -> tuple[int, Report]:
    """Its exit code and its findings by subject, each with its verdict; the last of several counts.

    `meanwhile` is done again and again until it has ended.
    """
    while process.poll() is None:
        meanwhile()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    out, err = process.communicate(timeout=SECONDS)
    assert err == ""
    found: Report = {}
    for line in out.splitlines():
        verdict, rest = line.split(maxsplit=1)
        about, text = rest[:11].strip(), rest[11:].strip()
        found[about] = (verdict, text)
    return process.returncode, found


@needs_capture
@pytest.mark.live
def test_all_is_well() -> None:
    """With traffic on the port every finding is good, and the code is 0."""
    with web_server() as port:
        process = start("--ports", str(port), "--interface", "lo", "--seconds", "2")
        code, found = report(process, meanwhile=lambda: exchanges(port, 2))
    assert code == 0
    assert found["privilege"][0] == "ok"
    assert found["interface"] == ("ok", "lo is up, 127.0.0.1, ::1") or found["interface"][1].startswith("lo is up, 127")
    assert found[f"port {port}"] == ("ok", "listens on 127.0.0.1")
    assert found["traffic"][0] == "ok"
    assert "messages in" in found["traffic"][1]
    assert found["memory"][1].startswith("budget ")


@needs_capture
@pytest.mark.live
def test_silent_port() -> None:
    """A port on which nothing comes is said to be silent, with what to do; 2."""
    with silent_server() as port:
        code, found = report(start("--ports", str(port), "--interface", "lo", "--seconds", "0.3"))
    assert code == 2
    assert found[f"port {port}"][0] == "ok"
    assert found["traffic"][0] == "no"
    assert "no packet of port" in found["traffic"][1]


@needs_capture
@pytest.mark.live
def test_nothing_listens() -> None:
    """Where nothing listens, the ports that are listened on are named."""
    with silent_server() as other:
        port = free_port()
        code, found = report(start("--ports", str(port), "--interface", "lo", "--seconds", "0.3"))
    assert code == 2
    verdict, text = found[f"port {port}"]
    assert verdict == "note"
    assert "nothing listens" in text
    assert str(other) in text or "20" in text


def test_missing_interface() -> None:
    """An interface that is not there is said, with those that are; 2."""
    code, found = report(start("--ports", "80", "--interface", "nowhere0"))
    assert code == 2
    assert found["interface"][0] == "no"
    assert "there is no nowhere0; there are lo" in found["interface"][1]
    assert "traffic" not in found


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_without_the_privilege() -> None:
    """Without NET_RAW the remedy is named, everything else is still looked at, and nothing is captured; 2."""
    process = start("--ports", "80", "--interface", "lo", prefix=("setpriv", "--bounding-set", "-net_raw"))
    code, found = report(process)
    if found["privilege"][0] == "ok":
        pytest.skip("the privilege cannot be given up here")
    assert code == 2
    assert "NET_RAW" in found["privilege"][1]
    assert found["interface"][0] == "ok"
    assert "port 80" in found
    assert "traffic" not in found


@contextlib.contextmanager
def tls_server(tmp_path: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """An echoing TLS server on loopback, and what a client needs."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    with contextlib.suppress(OSError), server.wrap_socket(plain, server_side=True) as one:
                        one.sendall(one.recv(100))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], client
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(SECONDS)


@needs_capture
@pytest.mark.live
def test_tls(tmp_path: Path) -> None:
    """TLS on the port is recognised, and is why nothing would be seen; 2."""
    with tls_server(tmp_path) as (port, context):

        def talk() -> None:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as one,
            ):
                one.sendall(b"hello")
                assert one.recv(100) == b"hello"

        process = start("--ports", str(port), "--interface", "lo", "--seconds", "2")
        code, found = report(process, meanwhile=talk)
    assert code == 2
    assert found[f"port {port}"][0] == "no"
    assert "speaks TLS" in found[f"port {port}"][1]
    assert "no HTTP message" in found["traffic"][1]


@needs_capture
@pytest.mark.live
def test_http2() -> None:
    """A request in HTTP/2 is a message; 0."""
    with silent_server() as port:

        def talk() -> None:
            with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as one:
                one.sendall(http2.PREFACE + http2.settings() + http2.headers(1, http2.REQUEST, end=True))

        code, found = report(start("--ports", str(port), "--interface", "lo", "--seconds", "2"), meanwhile=talk)
    assert (code, found["traffic"][0]) == (0, "ok")


@needs_capture
@pytest.mark.live
@pytest.mark.skipif(shutil.which("unshare") is None or shutil.which("ip") is None, reason="no unshare, ip")
def test_loopback_only() -> None:
    """A server on 127.0.0.1 is not seen on eth0, and that is said."""
    network = (
        "ip link set lo up; ip link add eth0 type veth peer name eth1; ip addr add 192.0.2.1/24 dev eth0;"
        " ip link set eth0 up; ip link set eth1 up;"
        f" {sys.executable} -m http.server --bind 127.0.0.1 8080 >/dev/null 2>&1 & server=$!;"
        " while ! ss -ltn 2>/dev/null | grep -q 8080 && ! grep -q :1F90 /proc/net/tcp; do sleep 0.05; done;"
        ' "$@"; code=$?; kill $server; exit $code'
    )
    prefix = ("unshare", "--net", "sh", "-c", network, "sh")
    code, found = report(start("--ports", "8080", "--interface", "eth0", "--seconds", "0.2", prefix=prefix))
    assert code == 2
    assert found["port 8080"] == ("no", "listens on 127.0.0.1 only: capture on lo, not on eth0")


BRIDGED = f"""
ip link set lo up
ip link add br0 type bridge && ip addr add 192.0.2.1/24 dev br0 && ip link set br0 up || exit 77
unshare --net sleep 60 & other=$!
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add v0 type veth peer name v1 netns $other
ip link set v0 master br0 up
nsenter --target $other --net sh -c 'ip addr add 192.0.2.2/24 dev v1; ip link set v1 up'
{sys.executable} -m http.server --bind 192.0.2.1 8080 >/dev/null 2>&1 & server=$!
nsenter --target $other --net sh -c 'while sleep 0.2; do
  {sys.executable} -c "import urllib.request as r; r.urlopen(\\"http://192.0.2.1:8080/\\", timeout=1)" 2>/dev/null
done' & client=$!
"$@"; code=$?
kill $client $server $other
exit $code
"""
"""A client in another namespace calls over a bridge: each packet passes v0 and br0."""


@needs_capture
@pytest.mark.live
@pytest.mark.skipif(shutil.which("unshare") is None or shutil.which("ip") is None, reason="no unshare, ip")
def test_duplicates_on_any() -> None:
    """On `any` what passes two interfaces comes twice, and that is said; it is none on one of them."""
    for interface, is_double in (("any", True), ("br0", False)):
        prefix = ("unshare", "--net", "sh", "-c", BRIDGED, "sh")
        code, found = report(start("--ports", "8080", "--interface", interface, "--seconds", "3", prefix=prefix))
        if code == 77:
            pytest.skip("no bridge can be made here")
        assert (code, found["traffic"][0]) == (0, "ok")
        assert ("duplicates" in found) is is_double
    assert found["port 8080"] == ("ok", "listens on 192.0.2.1")


@pytest.mark.parametrize(
    ("port", "code", "says"),
    [
        ("8080", 0, "(Ethernet) has 62 packets, 62 of the ports; 14 messages"),
        ("81", 2, "(Ethernet) has 62 packets; no packet of port 81; the file has HTTP on 8080 (14 messages)"),
    ],
)
def test_files(port: str, code: int, says: str, tmp_path: Path) -> None:
    """With `--read` the files are looked at, not the machine: whether they have messages, and on which ports."""
    assert report(start("--ports", port, "--read", str(DEMO))) == (
        code,
        {"memory": ANY, "file": ("no" if code else "ok", f"{DEMO} {says}")},
    )
    bad = tmp_path / "bad.pcap"
    bad.write_bytes(b"no capture")
    code, found = report(start("--ports", port, "--read", str(bad)))
    assert (code, found["file"][0]) == (2, "no")
    assert f"{bad} cannot be read" in found["file"][1]


def test_files_with_something_else(tmp_path: Path) -> None:
    """What a file has on the ports in place of messages is said."""
    hello = bytes.fromhex("160301020001000001fc0303") + bytes(600)
    whole = connection([(hello, hello), (hello, hello)], server_port=8443)
    path = write(tmp_path / "tls.pcap", whole)
    code, found = report(start("--ports", "8443", "--read", path))
    assert code == 2
    assert found["file"][1].endswith("no HTTP message of port 8443; the file has TLS on 8443 (1 connection)")
    assert "speaks TLS" in found["port 8443"][1]


def test_share_of_duplicates() -> None:
    """The share is that of all bytes of payload, and only `any` is told."""
    for name, told in (("any", ["25% of the bytes came more than once"]), ("eth0", [])):
        counters = Counter(packets_parsed=9, bytes_duplicate=250, bytes_payload=1000)
        seen = doctor.Seen(counters, 1, [], None)
        found = doctor._traffic(SnifferConfig(ports=[80]), name, seen, 5)
        texts = [finding.text for finding in found if finding.about == "duplicates"]
        assert [text.split(":")[0] for text in texts] == told


@needs_capture
@pytest.mark.live
def test_any() -> None:
    """On `any` the traffic of loopback is seen as well."""
    with web_server() as port:
        process = start("--ports", str(port), "--interface", "any", "--seconds", "2")
        code, found = report(process, meanwhile=lambda: exchanges(port, 2))
    assert code == 0
    assert "any (Linux cooked" in found["traffic"][1]


@needs_capture
@pytest.mark.live
def test_interrupt() -> None:
    """Ctrl-C ends the capture before its time, with what it has seen."""
    with web_server() as port:
        process = start("--ports", str(port), "--interface", "lo", "--seconds", "600")
        assert process.stdout is not None
        for line in process.stdout:
            if line.split()[1] == "port":
                break
        exchanges(port, 1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=SECONDS)
    assert "traffic" in out
    assert process.returncode in (0, 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "ports is required"),
        (("--ports", "80", "--seconds", "0"), "seconds must be"),
        (("--ports", "80", "--seconds", "soon"), "seconds must be"),
        (("--ports", "80", "--nothing"), "--nothing is not an option"),
    ],
)
def test_wrong_configuration(arguments: tuple[str, ...], says: str) -> None:
    """What is wrong with the arguments is said as for the daemon; 1."""
    out, err = (process := start(*arguments)).communicate(timeout=SECONDS)
    assert (process.returncode, out) == (1, "")
    assert says in err


# Parts


def test_who_listens(tmp_path: Path) -> None:
    """/proc/net/tcp and tcp6 are read in the machine's byte order; only sockets that listen count."""
    net = tmp_path / "self" / "net"
    net.mkdir(parents=True)
    v4 = "0100007F" if sys.byteorder == "little" else "7F000001"
    v6 = "00000000000000000000000001000000" if sys.byteorder == "little" else "0" * 31 + "1"
    (net / "tcp").write_text(f"head\n 0: {v4}:1F90 00000000:0000 0A x\n 1: {v4}:1F91 {v4}:1F90 01 x\n")
    (net / "tcp6").write_text(f"head\n 0: {v6}:0050 {'0' * 32}:0000 0A x\n")
    assert list(doctor.listening(tmp_path)) == [("127.0.0.1", 8080), ("::1", 80)]
    assert list(doctor.listening(tmp_path / "nowhere")) == []
    assert not doctor.may_capture(tmp_path / "nowhere")


def test_offload_is_asked_for() -> None:
    """The kernel answers for loopback, which has segmentation offload; for no interface the answer is no."""
    assert doctor.ethtool("lo", doctor.OFFLOADS["gso"])
    assert not doctor.ethtool("nowhere0", doctor.OFFLOADS["gso"])


def seen(**counters: int) -> doctor.Seen:
    """What came, with TLS on one connection to port 443."""
    event = ("tls", ("192.0.2.1", 443), ("192.0.2.2", 40000))
    return doctor.Seen(Counter(counters), 1, [event], None)


def verdicts(name: str, found: doctor.Seen) -> dict[str, str]:
    config = SnifferConfig(ports=[80, 443])
    return {finding.about: finding.verdict for finding in doctor._traffic(config, name, found, 5)}


def test_traffic_of_other_ports_is_none() -> None:
    """Packets that only share the filter with ours do not make an interface the right one."""
    config = SnifferConfig(ports=[80])
    (first, *_) = doctor._traffic(config, "eth0", seen(packets_seen=20, packets_parsed=9, segments_other_port=9), 5)
    assert (first.verdict, first.text.startswith("no packet of port 80 came")) == ("no", True)
    (first, *_) = doctor._traffic(config, "eth0", seen(packets_parsed=9, segments_other_port=8), 5)
    assert "but no HTTP message" in first.text


def test_other_protocols_beside_messages_are_a_note() -> None:
    """TLS on one port stops nobody who gets messages from another."""
    assert verdicts("eth0", seen(packets_parsed=9)) == {"traffic": "no", "port 443": "no"}
    assert verdicts("eth0", seen(packets_parsed=9, messages_request=1)) == {"traffic": "ok", "port 443": "note"}


def test_retransmissions_are_no_duplicates() -> None:
    """Bytes that came twice say something of `any` only."""
    counters = {"packets_parsed": 9, "messages_request": 1, "bytes_duplicate": 5, "bytes_payload": 10}
    assert "duplicates" not in verdicts("eth0", seen(**counters))
    assert verdicts("any", seen(**counters))["duplicates"] == "note"


def test_interfaces_are_described() -> None:
    """Each interface has its state and its addresses."""
    assert is_up("lo")
    assert not is_up("nowhere0")
    assert "127.0.0.1" in addresses("lo")
    lines = list(doctor.list_interfaces())
    assert [line.split()[0] for line in lines] == interfaces()
    assert lines[0].split()[:3] == ["lo", "up", "127.0.0.1"]


def test_list_interfaces() -> None:
    """`--list-interfaces` needs nothing else, and ends with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "sniffer", "--list-interfaces"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == list(doctor.list_interfaces())
