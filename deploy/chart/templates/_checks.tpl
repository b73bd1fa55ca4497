{{/* "true" if a value asks for something: it is not false, nothing, or a container of only such. */}}
{{- define "vc.asks" -}}
{{- if kindIs "map" . }}
{{- range $_, $value := . }}{{ include "vc.asks" $value }}{{ end }}
{{- else if kindIs "string" . }}
{{- if not (has (. | trimAll "- \n" | lower) (list "" "false")) }}true{{ end }}
{{- else if . }}true
{{- end }}
{{- end }}

{{/* Fails, in words, for what the schema cannot tell. */}}
{{- define "vc.checks" -}}
{{- $name := .Release.Name }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "the release name %q cannot be a virtual cluster's: it is the name of a Service, so use small letters, digits and '-', and begin with a letter" $name) }}
{{- end }}
{{- if gt (len $name) 52 }}
{{- fail (printf "the release name %q has %d characters: 52 at most, as Kubernetes puts it and a hash into a label of the StatefulSet's pods" $name (len $name)) }}
{{- end }}
{{- if not (has .Values.distro (list "k3s" "k8s")) }}
{{- fail (printf "distro: %s is not offered; take k3s or k8s" .Values.distro) }}
{{- end }}
{{- if eq .Values.distro "k8s" }}
{{- include "vc.checksOfK8s" . }}
{{- else }}
{{- range $part := list "api" "controller" "etcd" }}
{{- range list "extraArgs" "env" "extraVolumeMounts" }}
{{- if get (index $.Values $part) . }}
{{- fail (printf "%s.%s: is of distro: k8s; with k3s write vcluster.%s" $part . .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $path, $words := .Files.Get "files/unsupported.yaml" | fromYaml }}
{{- $value := dict "at" $.Values }}
{{- range splitList "." $path }}
{{- $at := $value.at }}
{{- $_ := set $value "at" (ternary (index (ternary $at dict (kindIs "map" $at)) .) nil (kindIs "map" $at)) }}
{{- end }}
{{- if include "vc.asks" $value.at }}
{{- fail (printf "%s: not supported; %s" $path $words) }}
{{- end }}
{{- end }}
{{- range list "app" "release" "chart" "heritage" }}
{{- if or (hasKey $.Values.labels .) (hasKey $.Values.podLabels .) }}
{{- fail (printf "labels, podLabels: %s is the chart's own label, by which the pods are found; take another one" .) }}
{{- end }}
{{- end }}
{{- range .Values.syncer.extraArgs }}
{{- if has (splitList "=" . | first) (list "--name" "--suffix" "--service-name" "--target-namespace" "--dns-service" "--kube-config" "--port" "--health-bind-address" "--init-manifests") }}
{{- fail (printf "syncer.extraArgs: %s is for the chart to say, whose Services, Role and probes go by it; drop it" (splitList "=" . | first)) }}
{{- end }}
{{- end }}
{{- if and (eq .Values.distro "k3s") (gt (int .Values.replicas) 1) (not .Values.vcluster.datastore.existingSecret) }}
{{- fail "replicas: more than one need a datastore that they share; name its Secret in vcluster.datastore.existingSecret, or take distro: k8s" }}
{{- end }}
{{- if and (include "vc.asksRange" .) (not (include "vc.enabled" . | fromYaml).words.services) }}
{{- fail (printf "serviceCIDR: Kubernetes %s has to know the host's range of Service addresses, and sync.services is off, so that it cannot be found out; write it here" (include "vc.version" .)) }}
{{- end }}
{{- if and .Values.sync.nodes.syncAllNodes (not .Values.sync.nodes.enabled) }}
{{- fail "sync.nodes.syncAllNodes: made-up nodes are those in use; to show the host's, set sync.nodes.enabled" }}
{{- end }}
{{- if and (gt (int .Values.coredns.replicas) 1) (not .Values.coredns.deployment) }}
{{- fail "coredns.replicas: CoreDNS runs once beside each replica of the API server, see replicas; for more of it set coredns.deployment" }}
{{- end }}
{{- if and .Values.coredns.config (not (contains "1053" .Values.coredns.config)) }}
{{- fail "coredns.config: it has to listen at port 1053, where the Service leads" }}
{{- end }}
{{- end }}

{{- define "vc.checksOfK8s" -}}
{{- if gt (len .Release.Name) 47 }}
{{- fail (printf "the release name %q has %d characters: with distro: k8s 47 at most, since there is a StatefulSet of that name with -etcd" .Release.Name (len .Release.Name)) }}
{{- end }}
{{- range list "extraArgs" "env" "extraVolumeMounts" }}
{{- if get $.Values.vcluster . }}
{{- fail (printf "vcluster.%s: is of distro: k3s; with k8s write api.%s or controller.%s" . . .) }}
{{- end }}
{{- end }}
{{- if .Values.vcluster.datastore.existingSecret }}
{{- fail "vcluster.datastore: is of distro: k3s; k8s has an etcd of its own" }}
{{- end }}
{{- $controllers := regexFind "v1\\.[0-9]+" (splitList ":" .Values.controller.image | last) }}
{{- with include "vc.version" . }}
{{- if and $controllers (gt (int (trimPrefix "v1." $controllers)) (int (trimPrefix "v1." .))) }}
{{- fail (printf "controller.image: %s is newer than api.image, %s, which does not know all that it asks for; take the same version" $controllers .) }}
{{- end }}
{{- end }}
{{- end }}
