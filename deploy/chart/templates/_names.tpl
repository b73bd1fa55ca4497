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

{{/*
Metadata of an object: `root`, `name`, and by choice `labels`, `annotations`, and the `selector` that it is found by instead of the control
plane's; `cluster` if it has no namespace.
*/}}
{{- define "vc.metadata" -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- include (.selector | default "vc.selector") .root | nindent 2 }}
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

{{/* Which controllers run: those that a cluster without nodes of its own can use, as k3s has them without agent. */}}
{{- define "vc.controllers" -}}
*,-nodeipam,-nodelifecycle,-persistentvolume-binder,-attachdetach,-persistentvolume-expander,-cloud-node-lifecycle,-ttl
{{- end }}

{{/* Affinity by which pods of one `selector` avoid one another: `root`, `selector`. */}}
{{- define "vc.apart" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    {{- range $topology, $weight := dict "kubernetes.io/hostname" 100 "topology.kubernetes.io/zone" 50 }}
    - weight: {{ $weight }}
      podAffinityTerm:
        topologyKey: {{ $topology }}
        labelSelector:
          matchLabels:
            {{- include $.selector $.root | nindent 12 }}
    {{- end }}
{{- end }}

{{/* The claim for data, as fields of a StatefulSet's spec. */}}
{{- define "vc.claims" -}}
{{- if .Values.storage.persistence }}
{{- if .Values.autoDeletePersistentVolumeClaims -}}
persistentVolumeClaimRetentionPolicy:
  whenDeleted: Delete
{{ end -}}
volumeClaimTemplates:
  - metadata:
      name: data
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .Values.storage.className }}
      storageClassName: {{ . | quote }}
      {{- end }}
      resources:
        requests:
          storage: {{ .Values.storage.size | quote }}
{{- end }}
{{- end }}
