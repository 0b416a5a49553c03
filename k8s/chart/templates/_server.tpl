{{/* The pods of the shared modes. Takes root, component (standalone, daemon), values, spread. */}}

{{- define "llm-sidecar.policiesConfigMap" -}}
{{- if .values.policies.files -}}
{{- printf "%s-policies" (include "llm-sidecar.componentName" .) -}}
{{- else -}}
{{- .values.policies.configMap -}}
{{- end -}}
{{- end -}}

{{/* Host names that clients use: others may be DNS rebinding, and are refused. */}}
{{- define "llm-sidecar.hostNames" -}}
{{- $name := include "llm-sidecar.componentName" . -}}
{{- $in := printf "%s.%s" $name .root.Release.Namespace -}}
{{- $names := list $name $in (printf "%s.svc" $in) (printf "%s.svc.cluster.local" $in) -}}
{{- if .values.hostPort -}}
{{- $names = concat $names (list "$(HOST_IP)" "[$(HOST_IP)]") -}}
{{- end -}}
{{- concat $names .values.hostNames | join "," -}}
{{- end -}}

{{/* How many pods share the budgets of the policy. */}}
{{- define "llm-sidecar.replicas" -}}
{{- if eq .component "daemon" -}}
{{- .values.expectedNodes -}}
{{- else if .values.autoscaling.enabled -}}
{{- .values.autoscaling.maxReplicas -}}
{{- else -}}
{{- max 1 (int .values.replicas) -}}
{{- end -}}
{{- end -}}

{{- define "llm-sidecar.serverEnv" -}}
- {name: MODE, value: {{ .component }}}
- {name: SERVICE_ID, value: {{ default (include "llm-sidecar.componentName" .) .values.serviceId | quote }}}
- {name: SIDECAR_DB, value: /var/lib/llm-sidecar/sidecar.db}
- {name: SIDECAR_LISTEN, value: ":9090"}
- {name: SIDECAR_HEALTH_LISTEN, value: ":9091"}
{{- if .values.hostPort }}
- name: HOST_IP
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
{{- end }}
- {name: SIDECAR_HOST_NAMES, value: {{ include "llm-sidecar.hostNames" . | quote }}}
- {name: SIDECAR_LOG_LEVEL, value: {{ .values.logLevel }}}
- {name: SIDECAR_WORKERS, value: {{ .values.workers | quote }}}
- {name: SIDECAR_REPLICAS, value: {{ include "llm-sidecar.replicas" . | quote }}}
- {name: SIDECAR_DRAIN, value: {{ printf "%ds" (int .values.drainSeconds) | quote }}}
- {name: SIDECAR_DRAIN_IDLE, value: "5s"}   # until every node has taken the pod out of the Service, new calls still come
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- with .values.optimizationInterval }}
- {name: OPTIMIZATION_INTERVAL, value: {{ . | quote }}}
{{- end }}
{{- if include "llm-sidecar.policiesConfigMap" . }}
- {name: SIDECAR_POLICIES, value: /etc/llm-sidecar/policies}
{{- end }}
{{- with .values.priors.configMap }}
- {name: SIDECAR_PRIORS, value: {{ printf "/etc/llm-sidecar/priors/%s" $.values.priors.key }}}
{{- end }}
{{- with .values.tokensSecret }}
- {name: SIDECAR_CLIENT_TOKENS_FILE, value: /var/run/secrets/llm-sidecar-tokens/tokens}
{{- end }}
{{- if .values.tls.secret }}
- {name: SIDECAR_TLS_CERT, value: /var/run/secrets/llm-sidecar-tls/tls.crt}
- {name: SIDECAR_TLS_KEY, value: /var/run/secrets/llm-sidecar-tls/tls.key}
{{- end }}
{{- range $setting, $from := .values.secretFiles }}
- {name: {{ $setting }}, value: {{ printf "/var/run/secrets/llm-sidecar-files/%s" $setting }}}
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Folders, and never a subPath, which would not be updated. */}}
{{- define "llm-sidecar.serverMounts" -}}
- {name: state, mountPath: /var/lib/llm-sidecar}
{{- if include "llm-sidecar.policiesConfigMap" . }}
- {name: policies, mountPath: /etc/llm-sidecar/policies, readOnly: true}
{{- end }}
{{- if .values.priors.configMap }}
- {name: priors, mountPath: /etc/llm-sidecar/priors, readOnly: true}
{{- end }}
{{- if .values.tokensSecret }}
- {name: tokens, mountPath: /var/run/secrets/llm-sidecar-tokens, readOnly: true}
{{- end }}
{{- if .values.tls.secret }}
- {name: tls, mountPath: /var/run/secrets/llm-sidecar-tls, readOnly: true}
{{- end }}
{{- if .values.secretFiles }}
- {name: files, mountPath: /var/run/secrets/llm-sidecar-files, readOnly: true}
{{- end }}
{{- range $i, $name := .values.upstreamSecrets }}
- {name: upstream-{{ $i }}, mountPath: /var/run/secrets/llm-sidecar/{{ $name }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "llm-sidecar.serverVolumes" -}}
- name: state
{{- if .values.persistence.enabled }}
  persistentVolumeClaim: {claimName: {{ default (printf "%s-state" (include "llm-sidecar.componentName" .)) .values.persistence.existingClaim }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .values.persistence.emptyDirSizeLimit }}}
{{- end }}
{{- with include "llm-sidecar.policiesConfigMap" . }}
- name: policies
  configMap: {name: {{ . }}}
{{- end }}
{{- with .values.priors.configMap }}
- name: priors
  configMap: {name: {{ . }}, optional: true}
{{- end }}
{{- with .values.tokensSecret }}
- name: tokens
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .values.tls.secret }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .values.secretFiles }}
- name: files
  projected:
    defaultMode: 0440
    sources:
      {{- range $setting, $from := . }}
      - secret: {name: {{ $from.secret }}, items: [{key: {{ $from.key }}, path: {{ $setting }}}]}
      {{- end }}
{{- end }}
{{- range $i, $name := .values.upstreamSecrets }}
- name: upstream-{{ $i }}
  secret: {secretName: {{ $name }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "llm-sidecar.serverPod" -}}
metadata:
  labels:
    {{- include "llm-sidecar.podLabels" . | nindent 4 }}
  {{- with .values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "llm-sidecar.componentName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .values.drainSeconds 15 }}   # drain, then the store's flush
  securityContext:
    {{- include "llm-sidecar.podSecurityContext" .root | nindent 4 }}
  {{- with include "llm-sidecar.imagePullSecrets" .root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with include "llm-sidecar.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: llm-sidecar
      image: {{ include "llm-sidecar.image" .root | quote }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      env:
        {{- include "llm-sidecar.serverEnv" . | nindent 8 }}
      ports:
        - {name: traffic, containerPort: 9090{{ if .values.hostPort }}, hostPort: {{ .values.hostPort }}{{ end }}}
        - {name: sidecar-health, containerPort: 9091}
      {{- include "llm-sidecar.probes" "sidecar-health" | nindent 6 }}
      resources:
        {{- toYaml .values.resources | nindent 8 }}
      securityContext:
        {{- include "llm-sidecar.containerSecurityContext" . | nindent 8 }}
      volumeMounts:
        {{- include "llm-sidecar.serverMounts" . | nindent 8 }}
  volumes:
    {{- include "llm-sidecar.serverVolumes" . | nindent 4 }}
{{- end -}}

{{/* What both shared modes have besides their pods: ServiceAccount and the ConfigMap of inline policies. */}}
{{- define "llm-sidecar.serverObjects" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "llm-sidecar.componentName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "llm-sidecar.labels" . | nindent 4 }}
  {{- with .values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- with .values.policies.files }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "llm-sidecar.policiesConfigMap" $ }}
  namespace: {{ $.root.Release.Namespace }}
  labels:
    {{- include "llm-sidecar.labels" $ | nindent 4 }}
data:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
