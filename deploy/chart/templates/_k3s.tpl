{{/* The container with k3s. The kubelet starts the next one once its postStart has ended. */}}
{{- define "vc.k3s" -}}
- name: vcluster
  {{- include "vc.image" (dict "root" . "image" .Values.vcluster.image "policy" .Values.vcluster.imagePullPolicy) | nindent 2 }}
  command:
    {{- toYaml .Values.vcluster.command | nindent 4 }}
  args:
    - server
    - --data-dir=/data
    - --write-kubeconfig=/data/k3s-config/kube-config.yaml
    # Its API is reached through the syncer alone.
    - --bind-address=127.0.0.1
    - --kube-apiserver-arg=bind-address=127.0.0.1
    - --kube-apiserver-arg=endpoint-reconciler-type=none
    - --disable=traefik,servicelb,metrics-server,local-storage,coredns
    - --disable-agent
    - --disable-scheduler
    - --disable-cloud-controller
    - --disable-network-policy
    - --flannel-backend=none
    - --egress-selector-mode=disabled
    - --kube-controller-manager-arg=controllers={{ include "vc.controllers" . }}
    - --cluster-domain={{ .Values.clusterDomain }}
    {{- with include "vc.serviceCIDR" . }}
    - --service-cidr={{ . }}
    {{- end }}
    {{- range .Values.vcluster.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  {{- $range := include "vc.serviceCIDREnv" . | fromYamlArray }}
  {{- if or .Values.vcluster.datastore.existingSecret .Values.vcluster.env $range }}
  env:
    {{- with .Values.vcluster.datastore.existingSecret }}
    - name: K3S_DATASTORE_ENDPOINT
      valueFrom:
        secretKeyRef:
          name: {{ . | quote }}
          key: endpoint
    - name: K3S_TOKEN
      valueFrom:
        secretKeyRef:
          name: {{ . | quote }}
          key: token
    {{- end }}
    {{- with concat $range .Values.vcluster.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  {{- if include "vc.corednsBeside" . }}
  lifecycle:
    postStart:
      # The kubelet starts the next container once this ends. CoreDNS exits without its kubeconfig.
      exec:
        command:
          - /bin/sh
          - -c
          - i=0; until [ -s /data/k3s-config/kube-config.yaml ] || [ $i -ge 120 ]; do sleep 1; i=$((i+1)); done
  {{- end }}
  {{- with .Values.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.vcluster.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - name: data
      mountPath: /data
    - name: vcluster-etc
      mountPath: /etc/rancher
    - name: vcluster-tmp
      mountPath: /tmp
    {{- with .Values.vcluster.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
