"""The combinations of values that the chart is rendered with: each mode alone and together, each way to certificates,
each supported Kubernetes, everything on, nothing on.
"""

from typing import Any, Final

OLDEST, NEWEST = 27, 37
POLICY_SINCE = 36
OFF: Final = {"enabled": False}
POLICY: Final = "version: 1\nservice: '*'\nupstreams: {}\nroutes: []\n"
STANDALONE: Final[dict[str, Any]] = {"injector": OFF, "standalone": {"enabled": True}}
DAEMON: Final[dict[str, Any]] = {"injector": OFF, "daemon": {"enabled": True}}
MONITORS: Final[dict[str, Any]] = {
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "namespaces": ["shop"]},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {
        "enabled": True,
        "metricsNamespaces": ["monitoring"],
        "standaloneNamespaces": ["shop", "desk"],
        "daemonNamespaces": ["shop"],
        "extraEgress": [{"ports": [{"port": 8080, "protocol": "TCP"}]}],
    },
}
SECRETS: Final[dict[str, Any]] = {
    "tokensSecret": "llm-tokens",
    "upstreamSecrets": ["openai", "anthropic.keys"],
    "secretFiles": {
        "SIDECAR_SALT_FILE": {"secret": "llm-files", "key": "salt"},
        "SIDECAR_ENCRYPTION_KEY_FILE": {"secret": "llm-files", "key": "encryption"},
        "SIDECAR_ADMIN_ROLES_FILE": {"secret": "llm-roles", "key": "roles"},
    },
    "tls": {"secret": "llm-tls"},
    "priors": {"configMap": "llm-priors"},
    "hostNames": ["llm.example.com"],
}
PLACED: Final[dict[str, Any]] = {
    "podAnnotations": {"example.com/team": "llm"},
    "podLabels": {"team": "llm"},
    "nodeSelector": {"kubernetes.io/os": "linux", "pool": "system"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchExpressions": [{"key": "pool", "operator": "Exists"}]}}]}},
    "priorityClassName": "system-cluster-critical",
    "serviceAccount": {"annotations": {"example.com/role": "llm"}},
}  # fmt: skip
ALL: Final[dict[str, Any]] = {
    "commonLabels": {"team": "llm"},
    "image": {"repository": "registry.example.com:5000/llm/sidecar", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "sidecar": {
        "mode": "auto", "logLevel": "debug", "policies": "llm-policies", "priors": "llm-priors", "strict": True,
        "upstreamSecrets": ["openai"], "env": {"OBSERVATORY_URL": "http://collector.tracing:4318"},
        "stateSize": "1Gi", "ports": {"traffic": 19090, "health": 19091, "admin": 19092},
        "resources": {"requests": {"cpu": "0.2", "memory": "128Mi"}, "limits": {"cpu": None, "memory": "1Gi"}},
    },
    "injector": {"replicas": 3, "port": 10250, **PLACED,
                 "webhook": {"failurePolicy": "Fail", "timeoutSeconds": 10, "excludedNamespaces": ["argocd"]}},
    "standalone": {"enabled": True, "workers": 2, "serviceId": "shared", "autoscaling": {"enabled": True},
                   "policies": {"files": {"all.yaml": POLICY}}, **SECRETS, **PLACED,
                   "service": {"type": "LoadBalancer", "port": 443, "annotations": {"example.com/internal": "true"}},
                   "extraEnv": [{"name": "SIDECAR_MAX_STREAMS", "value": "8192"}]},
    "daemon": {"enabled": True, "expectedNodes": 12, "optimizationInterval": "1h", **SECRETS, **PLACED,
               "policies": {"configMap": "llm-policies"}},
    **MONITORS,
}  # fmt: skip

MATRIX: Final[dict[str, dict[str, Any]]] = {
    "defaults": {},
    "minimal": {"injector": OFF},
    "injector": {"injector": {"enabled": True}},
    "injector without API rights": {"injector": {"readReplicas": False, "certificates": {"mode": "cert-manager"}}},
    "injector alone on one node": {"injector": {"replicas": 1}},
    "cert-manager": {"injector": {"certificates": {"mode": "cert-manager"}}},
    "cert-manager, issuer of others": {
        "injector": {"certificates": {"mode": "cert-manager", "certManager": {
            "issuerRef": {"name": "vault", "kind": "ClusterIssuer"}, "duration": "720h", "renewBefore": "240h"}}}
    },
    "files": {"injector": {"certificates": {"mode": "files", "secret": "hook-tls"}, "webhook": {"caBundle": "Zm9v"}}},
    "native only": {"sidecar": {"mode": "native"}},
    "plain only": {"sidecar": {"mode": "plain", "policies": "llm-policies"}},
    "no cpu limit": {"sidecar": {"resources": {"limits": {"cpu": None}}}},
    "openshift": {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
                  "sidecar": {"fixedUser": False}},
    "standalone": STANDALONE,
    "standalone with a volume": {"injector": OFF, "standalone": {
        "enabled": True, "replicas": 1, "persistence": {"enabled": True, "storageClassName": "fast", "size": "4Gi"}}},
    "standalone with a claim": {"injector": OFF, "standalone": {
        "enabled": True, "replicas": 1, "persistence": {"enabled": True, "existingClaim": "kept"}}},
    "standalone scaled": {"injector": OFF, "standalone": {
        "enabled": True, "autoscaling": {"enabled": True, "maxReplicas": 9}}},
    "standalone with keys": {"injector": OFF, "standalone": {"enabled": True, **SECRETS}},
    "standalone with policies": {"injector": OFF, "standalone": {
        "enabled": True, "policies": {"files": {"a.yaml": POLICY}}}},
    "daemon": DAEMON,
    "daemon at a port of the node": {"injector": OFF, "daemon": {"enabled": True, "hostPort": 9090}},
    "daemon with keys": {"injector": OFF, "daemon": {"enabled": True, **SECRETS, "policies": {"configMap": "p"}}},
    "injector and standalone": {"standalone": {"enabled": True}},
    "injector and daemon": {"daemon": {"enabled": True}},
    "standalone and daemon": {"injector": OFF, "standalone": {"enabled": True}, "daemon": {"enabled": True}},
    "three modes": {"standalone": {"enabled": True}, "daemon": {"enabled": True}},
    "monitored": MONITORS,
    "monitored everywhere": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    "closed": {"networkPolicy": {"enabled": True}, "standalone": {"enabled": True}, "daemon": {"enabled": True}},
    "renamed": {"nameOverride": "models", "fullnameOverride": "gateway", "standalone": {"enabled": True}},
    "everything": ALL,
}  # fmt: skip
POLICIES: Final[dict[str, dict[str, Any]]] = {
    "policy": {"injector": {"kind": "policy"}},
    "policy with options": {"injector": {"kind": "policy"}, "sidecar": ALL["sidecar"], "image": ALL["image"]},
    "policy, user of the namespace": {
        "injector": {"kind": "policy"}, "sidecar": {"fixedUser": False, "resources": {"limits": {"cpu": 2}}}},
    "policy and the shared modes": {
        "injector": {"kind": "policy"}, "standalone": {"enabled": True}, "daemon": {"enabled": True}, **MONITORS},
}  # fmt: skip


def combinations() -> list[tuple[str, dict[str, Any], str]]:
    """(name, values, Kubernetes version) of every rendering that must work."""
    made = [(name, values, "1.31") for name, values in MATRIX.items()]
    made += [(f"everything on 1.{minor}", ALL, f"1.{minor}") for minor in range(OLDEST, NEWEST + 1)]
    made.append(("a provider's build", ALL, "v1.30.4-gke.1234"))
    made += [
        (f"{name} on 1.{minor}", values, f"1.{minor}")
        for name, values in POLICIES.items()
        for minor in range(POLICY_SINCE, NEWEST + 1)
    ]
    return made


# Values that are refused, and what the refusal says.
WRONG: Final[tuple[tuple[dict[str, Any], str, str], ...]] = (
    ({"injectr": {}}, "1.31", "Additional property injectr is not allowed"),
    ({"injector": {"replica": 2}}, "1.31", "Additional property replica is not allowed"),
    ({"injector": {"kind": "sidecar"}}, "1.31", 'injector.kind must be one of the following: "webhook", "policy"'),
    ({"injector": {"replicas": "2"}}, "1.31", "injector.replicas: Invalid type. Expected: integer, given: string"),
    ({"injector": {"port": 443}}, "1.31", "injector.port: Must be greater than or equal to 1024"),
    ({"injector": {"port": 9091}}, "1.31", "9091 is the injector's health port"),
    ({"injector": {"webhook": {"timeoutSeconds": 60}}}, "1.31", "timeoutSeconds: Must be less than or equal to 30"),
    ({"injector": {"webhook": {"caBundle": "Zm9v"}}}, "1.31", "caBundle: is only for injector.certificates.mode files"),
    ({"injector": {"certificates": {"mode": "files"}}}, "1.31", "mode files needs secret"),
    ({"injector": {"certificates": {"mode": "files", "secret": "a"}}}, "1.31", "needs injector.webhook.caBundle"),
    ({"injector": {"certificates": {"mode": "selfsigned"}}}, "1.31", '"self", "cert-manager", "files"'),
    ({"injector": {"kind": "policy"}}, "1.35", "needs Kubernetes 1.36 or newer, and this is v1.35.0: use webhook"),
    ({"injector": {"kind": "policy"}, "sidecar": {"mode": "plain"}}, "1.36", "the policy makes native sidecars only"),
    ({"sidecar": {"mode": "native"}}, "1.28", "needs Kubernetes 1.29 or newer, and this is v1.28.0: use auto or plain"),
    ({"sidecar": {"ports": {"health": 9090}}}, "1.31", "give traffic, health and admin a port each"),
    ({"sidecar": {"logLevel": "verbose"}}, "1.31", '"debug", "info", "warning", "error"'),
    ({"sidecar": {"resources": {"limits": {"memory": "512mb"}}}}, "1.31", "limits.memory: Does not match pattern"),
    ({"sidecar": {"resources": {"limits": {"memory": None}}}}, "1.31", "memory is required"),
    ({"image": {"tag": "latest"}}, "1.31", "latest may be another image tomorrow: give a version, or image.digest"),
    ({"image": {"repository": "Not An Image"}}, "1.31", "image.repository: Does not match pattern"),
    ({"podSecurityContext": {"runAsUser": 0}}, "1.31", "runAsUser: Must be greater than or equal to 1"),
    ({"podSecurityContext": {"runAsNonRoot": False}}, "1.31", "Additional property runAsNonRoot is not allowed"),
    ({"standalone": {"persistence": {"enabled": True}}}, "1.31", "a database has one writer: set replicas to 1"),
    ({"standalone": {"autoscaling": {"enabled": True, "minReplicas": 9}}}, "1.31", "minReplicas is above maxReplicas"),
    ({"standalone": {"policies": {"configMap": "a", "files": {"a.yaml": "b"}}}}, "1.31", "configMap or files, not both"),
    ({"standalone": {"policies": {"files": {"../a": "b"}}}}, "1.31", "Does not match pattern"),
    ({"standalone": {"enabled": True, "upstreamSecrets": ["a"]}}, "1.31", "set standalone.tokensSecret"),
    ({"daemon": {"enabled": True, "upstreamSecrets": ["a"]}}, "1.31", "set daemon.tokensSecret"),
    ({"daemon": {"secretFiles": {"SIDECAR_ENCRYPTION_KEY_FILE": {"secret": "a", "key": "b"}}}}, "1.31",
     "SIDECAR_ENCRYPTION_KEY_FILE needs SIDECAR_SALT_FILE"),
    ({"daemon": {"secretFiles": {"SIDECAR_SALT": {"secret": "a", "key": "b"}}}}, "1.31", "SIDECAR_SALT_FILE"),
    ({"daemon": {"optimizationInterval": "soon"}}, "1.31", "optimizationInterval: Does not match pattern"),
    ({"daemon": {"replicas": 3}}, "1.31", "Additional property replicas is not allowed"),
    ({"daemon": {"extraEnv": [{"name": "SIDECAR_DRAIN", "value": "5s"}]}}, "1.31", "SIDECAR_DRAIN is set by the chart"),
    ({"fullnameOverride": "9lives"}, "1.31", "no Service can be called 9lives: give a name that begins with a letter"),
    ({"commonLabels": {"app.kubernetes.io/name": "a"}}, "1.31", "commonLabels: app.kubernetes.io/name is one of"),
    ({"injector": {"podLabels": {"llm-sidecar.io/inject": "true"}}}, "1.31", "injector.podLabels: llm-sidecar.io/inject"),
    ({"sidecar": {"resources": {"limits": {"ephemeral-storage": "1Gi"}}}}, "1.31", "ephemeral-storage is not allowed"),
    ({"podMonitor": {"interval": "1.5s"}}, "1.31", "podMonitor.interval: Does not match pattern"),
    ({}, "1.26", "chart requires kubeVersion: >=1.27.0-0"),
)  # fmt: skip
