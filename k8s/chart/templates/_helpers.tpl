{{/* Names, labels and what all pods have in common. Every template takes a dict: root (the chart's context), component. */}}

{{- define "llm-sidecar.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters and no dots: with the longest suffix of ours it is still the name of a Service. */}}
{{- define "llm-sidecar.fullname" -}}
{{- $name := include "llm-sidecar.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of a component's objects: FULLNAME-injector and so on. */}}
{{- define "llm-sidecar.componentName" -}}
{{- printf "%s-%s" (include "llm-sidecar.fullname" .root) .component -}}
{{- end -}}

{{/* The name of what is not in a namespace: two releases of one name must not share it, so it is never cut. */}}
{{- define "llm-sidecar.clusterName" -}}
{{- printf "%s-%s" (include "llm-sidecar.componentName" .) .root.Release.Namespace -}}
{{- end -}}

{{/* What selectors match: it can never change. */}}
{{- define "llm-sidecar.selectorLabels" -}}
app.kubernetes.io/name: {{ include "llm-sidecar.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels that values may change: those of one object (more), then those of all, then ours. */}}
{{- define "llm-sidecar.freeLabels" -}}
{{- $ours := dict "app.kubernetes.io/version" .root.Chart.AppVersion "app.kubernetes.io/part-of" (include "llm-sidecar.name" .root) -}}
{{- toYaml (merge dict (default dict .more) .root.Values.commonLabels $ours) -}}
{{- end -}}

{{/* Labels of an object. Takes root, component and `more`: labels of this object only. */}}
{{- define "llm-sidecar.labels" -}}
{{ include "llm-sidecar.selectorLabels" . }}
{{ include "llm-sidecar.freeLabels" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The labels of our own pods: never injected themselves. The chart's version is not among them: it would restart them. */}}
{{- define "llm-sidecar.podLabels" -}}
{{ include "llm-sidecar.selectorLabels" . }}
{{ include "llm-sidecar.freeLabels" (dict "root" .root "more" .values.podLabels) }}
llm-sidecar.io/inject: "false"
{{- end -}}

{{- define "llm-sidecar.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* PodSecurity `restricted`; what may be changed are the numbers only (OpenShift gives its own). */}}
{{- define "llm-sidecar.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- with .Values.podSecurityContext }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "llm-sidecar.containerSecurityContext" -}}
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Readiness and start ask /ready, liveness asks /health: neither depends on an upstream or the database. Takes the port's name. */}}
{{- define "llm-sidecar.probes" -}}
startupProbe:
  httpGet: {path: /ready, port: {{ . }}}
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /ready, port: {{ . }}}
  periodSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /health, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
{{- end -}}

{{/* Where a component's pods may run. Takes root, component, values, spread. */}}
{{- define "llm-sidecar.placement" -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.affinity }}
affinity:
  {{- toYaml .values.affinity | nindent 2 }}
{{- else if .spread }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "llm-sidecar.selectorLabels" . | nindent 14 }}
{{- end }}
{{- if .spread }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "llm-sidecar.selectorLabels" . | nindent 8 }}
{{- end }}
{{- end -}}

{{- define "llm-sidecar.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
