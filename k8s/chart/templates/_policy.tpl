{{/* Pieces of mutatingadmissionpolicy.yaml. */}}

{{- /* One probe: member, path, times over HTTP, times as a command. */}}
{{- define "llm-sidecar.celProbe" -}}
{{- $type := printf "Object.spec.initContainers.%s" (index . 0) -}}
variables.meshed
                ? {{ $type }}{exec: {{ $type }}.exec{command: ["/opt/llm-sidecar/bin/python", "-I", "-S", "-c", variables.peer
                  + "{{ index . 1 }} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n\")\nraise SystemExit(b\" 200 \" not in peer.recv(64))\n"]},
                  {{ index . 3 }}}
                : {{ $type }}{httpGet: {{ $type }}.httpGet{path: "{{ index . 1 }}", port: "sidecar-health"},
                  {{ index . 2 }}}
{{- end -}}

{{- /* A map of amounts (cpu "" is left out) without what of cpu and memory the pod states as a whole. */}}
{{- define "llm-sidecar.celAmounts" -}}
{{- $both := . }}{{- if not .cpu }}{{- $both = omit . "cpu" }}{{- end -}}
("memory" in variables.whole ? ("cpu" in variables.whole ? {{ toJson (omit $both "cpu" "memory") }} : {{ toJson (omit $both "memory") }}) : ("cpu" in variables.whole ? {{ toJson (omit $both "cpu") }} : {{ toJson $both }}))
{{- end -}}

{{- /* Which pods the policies look at, as the webhook does. */}}
{{- define "llm-sidecar.policyScope" -}}
matchConstraints:
  matchPolicy: Equivalent
  resourceRules:
    - {apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE], scope: Namespaced}
matchConditions:
  - name: not-injected-already
    expression: >-
      !(object.spec.containers + (has(object.spec.initContainers) ? object.spec.initContainers : []))
      .exists(c, c.name == "llm-sidecar")
  - name: not-opted-out
    expression: >-
      !(has(object.metadata.annotations) && "llm-sidecar.io/inject" in object.metadata.annotations
        && object.metadata.annotations["llm-sidecar.io/inject"] in ["false", "disabled"])
      && !(has(object.metadata.labels) && "llm-sidecar.io/inject" in object.metadata.labels
        && object.metadata.labels["llm-sidecar.io/inject"] in ["false", "disabled"])
  - name: no-mirror-pods   # the kubelet's own copies of static pods cannot be changed
    expression: >-
      !has(object.metadata.annotations) || !("kubernetes.io/config.mirror" in object.metadata.annotations)
{{- end -}}

{{- define "llm-sidecar.policyNamespaces" -}}
matchResources:
  matchPolicy: Equivalent
  namespaceSelector:
    matchExpressions:
      - {key: llm-sidecar.io/injection, operator: In, values: [enabled]}
      - key: kubernetes.io/metadata.name
        operator: NotIn
        values: {{ concat (list "kube-system" "kube-public" "kube-node-lease" .Release.Namespace) .Values.injector.webhook.excludedNamespaces | uniq | toJson }}
  objectSelector:
    matchExpressions:
      - {key: llm-sidecar.io/inject, operator: NotIn, values: ["false", disabled]}
{{- end -}}
