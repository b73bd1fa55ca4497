{{/* "true" if there is anything that the syncer is to apply to the virtual cluster. */}}
{{- define "vc.manifests" -}}
{{- if or (and .Values.coredns.enabled .Values.coredns.deployment) (include "vc.asks" .Values.init.manifests) (include "vc.asks" .Values.init.manifestsTemplate) }}true{{ end }}
{{- end }}
