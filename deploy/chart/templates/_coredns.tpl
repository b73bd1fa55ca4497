{{/* "true" if CoreDNS is a container beside the API server, and not a Deployment of the virtual cluster. */}}
{{- define "vc.corednsBeside" -}}
{{- if and .Values.coredns.enabled (not .Values.coredns.deployment) }}true{{ end }}
{{- end }}

{{/* The container: `root`, and `beside`, whether it is beside the API server. */}}
{{- define "vc.coredns" -}}
{{- $values := .root.Values.coredns -}}
- name: coredns
  {{- include "vc.image" (dict "root" .root "image" $values.image "policy" $values.imagePullPolicy) | nindent 2 }}
  args: [-conf, /etc/coredns/Corefile]
  ports:
    - name: dns
      containerPort: 1053
      protocol: UDP
    - name: dns-tcp
      containerPort: 1053
  livenessProbe:
    httpGet:
      path: /health
      port: 8080
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  {{- if not .beside }}
  readinessProbe:
    httpGet:
      path: /ready
      port: 8181
    periodSeconds: 2
    timeoutSeconds: 5
  {{- end }}
  {{- /* Its binary has this capability in its file, so that it could not even be started without. */}}
  securityContext:
    {{- toYaml (mergeOverwrite (deepCopy (.root.Values.securityContext | default dict)) (dict "capabilities" (dict "add" (list "NET_BIND_SERVICE")))) | nindent 4 }}
  {{- with $values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - name: coredns
      mountPath: /etc/coredns
      readOnly: true
    {{- if .beside }}
    # The kubeconfig, and nothing else of what k3s keeps.
    - name: data
      mountPath: /data/k3s-config
      subPath: k3s-config
      readOnly: true
    {{- end }}
{{- end }}

{{/* Corefile: `root`, and `beside` as above. */}}
{{- define "vc.corefile" -}}
{{- if .root.Values.coredns.config }}
{{- .root.Values.coredns.config }}
{{- else -}}
.:1053 {
    errors
    health :8080
    ready :8181
    kubernetes {{ .root.Values.clusterDomain }} in-addr.arpa ip6.arpa {
        {{- if .beside }}
        kubeconfig /data/k3s-config/kube-config.yaml
        {{- end }}
        pods insecure
        ttl 5
    }
    forward . /etc/resolv.conf
    cache 30
    reload
    loadbalance
}
{{- end }}
{{- end }}

{{/* The objects of the Deployment, for the virtual cluster. */}}
{{- define "vc.corednsManifests" -}}
{{- $labels := dict "k8s-app" "kube-dns" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: coredns
  namespace: kube-system
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: system:coredns
rules:
  - apiGroups: [""]
    resources: [services, namespaces, pods]
    verbs: [list, watch]
  - apiGroups: [discovery.k8s.io]
    resources: [endpointslices]
    verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: system:coredns
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: system:coredns
subjects:
  - kind: ServiceAccount
    name: coredns
    namespace: kube-system
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: coredns
  namespace: kube-system
data:
  Corefile: |
    {{- include "vc.corefile" (dict "root" . "beside" false) | nindent 4 }}
---
apiVersion: v1
kind: Service
metadata:
  name: kube-dns
  namespace: kube-system
  labels:
    {{- toYaml $labels | nindent 4 }}
    kubernetes.io/name: CoreDNS
  {{- with .Values.coredns.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .Values.service.ipFamilyPolicy }}
  ipFamilyPolicy: {{ . }}
  {{- end }}
  selector:
    {{- toYaml $labels | nindent 4 }}
  ports:
    - name: dns
      port: 53
      targetPort: 1053
      protocol: UDP
    - name: dns-tcp
      port: 53
      targetPort: 1053
      protocol: TCP
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: coredns
  namespace: kube-system
  labels:
    {{- toYaml $labels | nindent 4 }}
    kubernetes.io/name: CoreDNS
spec:
  replicas: {{ .Values.coredns.replicas }}
  strategy:
    rollingUpdate:
      maxUnavailable: 1
  selector:
    matchLabels:
      {{- toYaml $labels | nindent 6 }}
  template:
    metadata:
      labels:
        {{- toYaml $labels | nindent 8 }}
    spec:
      serviceAccountName: coredns
      # Names that it does not serve go to the node's resolver: its own Service would lead back to it.
      dnsPolicy: Default
      {{- with omit .Values.podSecurityContext "fsGroup" "fsGroupChangePolicy" }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- toYaml $labels | nindent 14 }}
      containers:
        {{- include "vc.coredns" (dict "root" . "beside" false) | nindent 8 }}
      volumes:
        - name: coredns
          configMap:
            name: coredns
{{- end }}
