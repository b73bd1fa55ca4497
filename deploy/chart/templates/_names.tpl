{{- define "vc.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (printf "vc-%s" .Release.Name) }}
{{- end }}

{{- define "vc.workloadServiceAccount" -}}
{{ .Values.workloadServiceAccount.name | default (printf "vc-workload-%s" .Release.Name) }}
{{- end }}

{{- define "vc.clusterRole" -}}
{{ printf "vc-%s-v-%s" .Release.Name .Release.Namespace }}
{{- end }}

{{/* The labels by which Services and policies find the pods. They never change: a StatefulSet's selector cannot. */}}
{{- define "vc.selector" -}}
app: vcluster
release: {{ .Release.Name | quote }}
{{- end }}

{{/* Metadata of an object: `root`, `name`, and by choice `labels` and `annotations`; `cluster` if it has no namespace. */}}
{{- define "vc.metadata" -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "vc.selector" .root | nindent 2 }}
  chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | quote }}
  heritage: {{ .root.Release.Service | quote }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.globalAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "vc.image" -}}
image: {{ printf "%s%s" .root.Values.defaultImageRegistry .image | quote }}
{{- with .policy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}
