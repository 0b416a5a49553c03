"""The checker of PodSecurity `restricted` that other tests trust: a pod for each control, allowed and not."""

from typing import Any

import pytest

from tests.fixtures.pod_security import violations
from tests.fixtures.pods import RESTRICTED, container, daemon, istio_init, job, pod, stateful


def secured(**more: Any) -> Any:
    return pod(container(securityContext=RESTRICTED | more))


@pytest.mark.parametrize("made", [pod(), stateful(), job(), daemon()])
def test_a_restricted_pod_has_no_violation(made: Any) -> None:
    assert violations(made) == set()


@pytest.mark.parametrize(
    ("made", "broken"),
    [
        (pod(hostNetwork=True), "pod: host namespaces"),
        (pod(hostPID=True), "pod: host namespaces"),
        (pod(hostIPC=True), "pod: host namespaces"),
        (secured(privileged=True), "app: privileged containers"),
        (secured(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}), "app: capabilities (baseline)"),
        (secured(capabilities={"drop": ["ALL"], "add": ["CHOWN"]}), "app: capabilities"),
        (secured(capabilities={"drop": ["KILL"]}), "app: capabilities"),
        (secured(capabilities=None), "app: capabilities"),
        (pod(volumes=[{"name": "x", "hostPath": {"path": "/"}}]), "pod: hostPath volumes"),
        (pod(volumes=[{"name": "x", "nfs": {"server": "s", "path": "/"}}]), "pod: volume types"),
        (secured(allowPrivilegeEscalation=True), "app: privilege escalation"),
        (pod(container(securityContext={})), "app: privilege escalation"),
        (pod(container(securityContext={})), "app: running as non-root"),
        (secured(runAsNonRoot=False), "app: running as non-root"),
        (pod(securityContext={"runAsNonRoot": False}), "pod: running as non-root"),
        (secured(runAsUser=0), "app: running as non-root user"),
        (pod(securityContext={"runAsUser": 0}), "pod: running as non-root user"),
        (pod(container(securityContext={"runAsNonRoot": True})), "app: seccomp"),
        (secured(seccompProfile={"type": "Unconfined"}), "app: seccomp"),
        (pod(securityContext={"seccompProfile": {"type": "Unconfined"}}), "pod: seccomp"),
        (pod(container(ports=[{"containerPort": 80, "hostPort": 80}])), "app: host ports"),
        (secured(windowsOptions={"hostProcess": True}), "app: HostProcess"),
        (secured(seLinuxOptions={"type": "spc_t"}), "app: SELinux"),
        (pod(securityContext={"seLinuxOptions": {"user": "system_u"}}), "pod: SELinux"),
        (secured(procMount="Unmasked"), "app: /proc mount type"),
        (pod(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}), "pod: sysctls"),
        (secured(appArmorProfile={"type": "Unconfined"}), "app: AppArmor"),
        (pod(annotations={"container.apparmor.security.beta.kubernetes.io/app": "unconfined"}), "pod: AppArmor"),
        (pod(container(livenessProbe={"httpGet": {"host": "x", "port": 1}})), "app: host probes and lifecycle hooks"),
        (pod(init=[istio_init()]), "istio-init: capabilities (baseline)"),
    ],
)
def test_each_control_is_seen(made: Any, broken: str) -> None:
    assert broken in violations(made)


@pytest.mark.parametrize(
    "made",
    [
        secured(capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
        secured(seLinuxOptions={"type": "container_t", "level": "s0:c1,c2"}),
        secured(seccompProfile={"type": "Localhost", "localhostProfile": "p.json"}),
        pod(
            container(securityContext={"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}),
            securityContext={"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        ),
        pod(securityContext={"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}),
    ],
)
def test_what_the_standard_allows_is_allowed(made: Any) -> None:
    assert violations(made) == set()
