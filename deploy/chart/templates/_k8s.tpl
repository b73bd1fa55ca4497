{{/* Containers of `distro: k8s`. Their images have no shell: all files are there before they start, see _prepare.tpl. */}}
{{- define "vc.k8s" -}}
{{- $tls := "/data/server/tls" -}}
- name: kube-apiserver
  {{- include "vc.image" (dict "root" . "image" .Values.api.image "policy" .Values.api.imagePullPolicy) | nindent 2 }}
  command: [kube-apiserver]
  args:
    - --etcd-servers=https://{{ include "vc.etcd" . }}:2379
    - --etcd-cafile={{ $tls }}/etcd/server-ca.crt
    - --etcd-certfile={{ $tls }}/etcd/client.crt
    - --etcd-keyfile={{ $tls }}/etcd/client.key
    - --secure-port=6443
    - --tls-cert-file={{ $tls }}/serving-kube-apiserver.crt
    - --tls-private-key-file={{ $tls }}/serving-kube-apiserver.key
    - --client-ca-file={{ $tls }}/client-ca.crt
    - --authorization-mode=Node,RBAC
    - --enable-admission-plugins=NodeRestriction
    - --allow-privileged=true
    - --profiling=false
    - --endpoint-reconciler-type=none
    - --service-cluster-ip-range={{ include "vc.serviceCIDR" . | default "10.96.0.0/12" }}
    - --service-account-issuer=https://kubernetes.default.svc.{{ .Values.clusterDomain }}
    - --service-account-key-file={{ $tls }}/service.key
    - --service-account-signing-key-file={{ $tls }}/service.key
    - --kubelet-certificate-authority={{ $tls }}/server-ca.crt
    - --kubelet-client-certificate={{ $tls }}/client-kube-apiserver.crt
    - --kubelet-client-key={{ $tls }}/client-kube-apiserver.key
    - --kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname
    - --requestheader-client-ca-file={{ $tls }}/request-header-ca.crt
    - --requestheader-allowed-names=system:auth-proxy
    - --requestheader-username-headers=X-Remote-User
    - --requestheader-group-headers=X-Remote-Group
    - --requestheader-extra-headers-prefix=X-Remote-Extra-
    - --proxy-client-cert-file={{ $tls }}/client-auth-proxy.crt
    - --proxy-client-key-file={{ $tls }}/client-auth-proxy.key
    {{- range .Values.api.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  {{- with concat (include "vc.serviceCIDREnv" . | fromYamlArray) .Values.api.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: apiserver
      containerPort: 6443
  # Not restarted for etcd, which that would not mend.
  startupProbe:
    httpGet:
      scheme: HTTPS
      path: /livez?exclude=etcd
      port: apiserver
    periodSeconds: 2
    timeoutSeconds: 10
    failureThreshold: 90
  livenessProbe:
    httpGet:
      scheme: HTTPS
      path: /livez?exclude=etcd
      port: apiserver
    periodSeconds: 10
    timeoutSeconds: 15
    failureThreshold: 8
  {{- include "vc.k8sContainer" (dict "root" . "resources" .Values.api.resources "mounts" .Values.api.extraVolumeMounts) | nindent 2 }}
- name: kube-controller-manager
  {{- include "vc.image" (dict "root" . "image" .Values.controller.image "policy" .Values.controller.imagePullPolicy) | nindent 2 }}
  command: [kube-controller-manager]
  args:
    {{- range list "kubeconfig" "authentication-kubeconfig" "authorization-kubeconfig" }}
    - --{{ . }}=/data/server/cred/controller.kubeconfig
    {{- end }}
    - --secure-port=10257
    - --leader-elect={{ gt (int .Values.replicas) 1 }}
    - --profiling=false
    - --root-ca-file={{ $tls }}/server-ca.crt
    - --service-account-private-key-file={{ $tls }}/service.key
    - --use-service-account-credentials=true
    {{- range $signer, $authority := dict "kube-apiserver-client" "client-ca" "kubelet-client" "client-ca" "kubelet-serving" "server-ca" "legacy-unknown" "server-ca" }}
    - --cluster-signing-{{ $signer }}-cert-file={{ $tls }}/{{ $authority }}.crt
    - --cluster-signing-{{ $signer }}-key-file={{ $tls }}/{{ $authority }}.key
    {{- end }}
    - --requestheader-client-ca-file={{ $tls }}/request-header-ca.crt
    - --kube-api-qps=200
    - --kube-api-burst=400
    - --controllers={{ include "vc.controllers" . }}
    {{- range .Values.controller.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  {{- with .Values.controller.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: controller
      containerPort: 10257
  livenessProbe:
    httpGet:
      scheme: HTTPS
      path: /healthz
      port: controller
    initialDelaySeconds: 15
    periodSeconds: 10
    timeoutSeconds: 15
    failureThreshold: 8
  {{- include "vc.k8sContainer" (dict "root" . "resources" .Values.controller.resources "mounts" .Values.controller.extraVolumeMounts) | nindent 2 }}
{{- end }}

{{/* What its containers have in common: `root`, `resources`, `mounts`. */}}
{{- define "vc.k8sContainer" -}}
{{- with .root.Values.securityContext -}}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - name: data
    mountPath: /data
    readOnly: true
  {{- with .mounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "vc.etcd" -}}
{{ .Release.Name }}-etcd
{{- end }}

{{/* The labels of etcd's pods: other ones than the control plane's, to which Services lead. */}}
{{- define "vc.etcdSelector" -}}
app: vcluster-etcd
release: {{ .Release.Name | quote }}
{{- end }}
