{{/* The tag of the virtual API server's image, as `v1.36`; nothing if it does not tell. */}}
{{- define "vc.version" -}}
{{- regexFind "v1\\.[0-9]+" (splitList ":" (eq .Values.distro "k8s" | ternary .Values.api.image .Values.vcluster.image) | last) }}
{{- end }}

{{/* "true" if the host's range of Service addresses has to be known and is not told: Kubernetes 1.33 and newer learn it while they run. */}}
{{- define "vc.asksRange" -}}
{{- $version := include "vc.version" . }}
{{- if and $version (lt (int (trimPrefix "v1." $version)) 33) (not .Values.serviceCIDR) }}true{{ end }}
{{- end }}

{{/* What flags say for the range of Service addresses; nothing if there is nothing to be said. */}}
{{- define "vc.serviceCIDR" -}}
{{- if include "vc.asksRange" . }}$(SERVICE_CIDR){{ else }}{{ .Values.serviceCIDR }}{{ end }}
{{- end }}

{{/* The variable in it, a list. The ConfigMap is there once `syncer prepare` has ended, and read when the container starts. */}}
{{- define "vc.serviceCIDREnv" -}}
{{- if include "vc.asksRange" . -}}
- name: SERVICE_CIDR
  valueFrom:
    configMapKeyRef:
      name: vc-{{ .Release.Name }}-service-cidr
      key: service-cidr
{{- else -}}
[]
{{- end }}
{{- end }}

{{/* The init container, a list of none or one. */}}
{{- define "vc.prepare" -}}
{{- $k8s := eq .Values.distro "k8s" }}
{{- if or $k8s (include "vc.asksRange" .) -}}
- name: prepare
  {{- $image := .Values.syncer.image | default (printf "syncer:%s" .Chart.AppVersion) }}
  {{- include "vc.image" (dict "root" . "image" $image "policy" .Values.syncer.imagePullPolicy) | nindent 2 }}
  command: [syncer, prepare]
  args:
    - --name={{ .Release.Name }}
    {{- if $k8s }}
    - --control-plane-files=/data
    - --cluster-domain={{ .Values.clusterDomain }}
    - --wait-for={{ include "vc.etcd" . }}:2379
    {{- end }}
    {{- if include "vc.asksRange" . }}
    - --service-range
    {{- end }}
    {{- range .Values.syncer.extraArgs }}
    {{- if has (splitList "=" . | first) (list "--certificate-life" "--set-owner" "--log-format" "--log-level") }}
    - {{ . | quote }}
    {{- end }}
    {{- end }}
  env:
    - name: NAMESPACE
      valueFrom:
        fieldRef:
          fieldPath: metadata.namespace
    {{- with .Values.syncer.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.syncer.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    {{- if $k8s }}
    - name: data
      mountPath: /data
    {{- end }}
    - name: host-access
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
    - name: syncer-tmp
      mountPath: /tmp
{{- end }}
{{- end }}
