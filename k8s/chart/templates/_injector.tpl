{{/* What the injector is told, as `sidecar/inject/options.py` reads it. */}}

{{/* Another one for cert-manager, which keeps its Secret when it is asked no more: `self` could not make that its own. */}}
{{- define "llm-sidecar.certificateSecret" -}}
{{- $kind := ternary "cert" "tls" (eq .Values.injector.certificates.mode "cert-manager") -}}
{{- default (printf "%s-%s" (include "llm-sidecar.componentName" (dict "root" . "component" "injector")) $kind) .Values.injector.certificates.secret -}}
{{- end -}}

{{/* `cpu=100m,memory=256Mi,cpu-limit=none,memory-limit=512Mi`: as the annotation llm-sidecar.io/resources is written. */}}
{{- define "llm-sidecar.resourcesText" -}}
{{- printf "cpu=%v,memory=%s,cpu-limit=%v,memory-limit=%s" .requests.cpu .requests.memory (default "none" .limits.cpu) .limits.memory -}}
{{- end -}}

{{- define "llm-sidecar.injectConfig" -}}
image: {{ include "llm-sidecar.image" . | quote }}
image_pull_policy: {{ .Values.image.pullPolicy }}
{{- with .Values.sidecar }}
mode: {{ .mode }}
log_level: {{ .logLevel }}
port: {{ .ports.traffic }}
health_port: {{ .ports.health }}
admin_port: {{ .ports.admin }}
resources: {{ include "llm-sidecar.resourcesText" .resources | quote }}
state_size: {{ .stateSize }}
strict: {{ .strict }}
{{- if eq (toString .fixedUser) "false" }}
fixed_user: false
{{- end }}
{{- with .policies }}
policies: {{ . | quote }}
{{- end }}
{{- with .priors }}
priors: {{ . | quote }}
{{- end }}
{{- with .upstreamSecrets }}
upstream_secrets: {{ toJson . }}
{{- end }}
{{- with .env }}
env: {{ toJson . }}
{{- end }}
{{- end }}
{{- end -}}
