{{/*
What of files/rights.yaml the values and syncer.extraArgs switch on, as YAML: `words` (those of --sync, by true or false), `election`,
`metricsOfPods`, `metricsOfNodes`.
*/}}
{{- define "vc.enabled" -}}
{{- $table := .Files.Get "files/rights.yaml" | fromYaml }}
{{- $words := dict }}
{{- range $word, $_ := $table.sync }}
{{- $_ := set $words $word (index $.Values.sync $word).enabled }}
{{- end }}
{{- $election := gt (int .Values.replicas) 1 }}
{{- $pods := .Values.proxy.metricsServer.pods.enabled }}
{{- $nodes := .Values.proxy.metricsServer.nodes.enabled }}
{{- $last := "" }}
{{- range .Values.syncer.extraArgs }}
{{- $arg := ternary (printf "%s=%s" $last .) . (has $last (list "--sync" "--disable-sync-resources")) }}
{{- $last = . }}
{{- $flag := splitn "=" 2 $arg }}
{{- if eq $flag._0 "--sync" }}
{{- range splitList "," (default "" $flag._1) }}
{{- $_ := set $words (trimPrefix "-" (trim .)) (not (hasPrefix "-" (trim .))) }}
{{- end }}
{{- else if eq $flag._0 "--disable-sync-resources" }}
{{- range splitList "," (default "" $flag._1) }}
{{- $_ := set $words (trim .) false }}
{{- end }}
{{- else if eq $flag._0 "--leader-elect" }}
{{- $election = ne (default "true" $flag._1) "false" }}
{{- else if eq $flag._0 "--proxy-metrics-server" }}
{{- $pods = ne (default "true" $flag._1) "false" }}
{{- $nodes = $pods }}
{{- end }}
{{- end }}
{{- range $word, $entry := $table.sync }}
{{- if and $entry.replaces (index $words $word) }}
{{- $_ := set $words $entry.replaces false }}
{{- end }}
{{- end }}
{{- toYaml (dict "words" $words "election" $election "metricsOfPods" $pods "metricsOfNodes" $nodes) }}
{{- end }}

{{/* The rules of a Role, or with `cluster` of a ClusterRole: `root`, `cluster`. As `rules:` in YAML, for fromYaml. */}}
{{- define "vc.rules" -}}
{{- $root := .root }}
{{- $cluster := .cluster }}
{{- $table := $root.Files.Get "files/rights.yaml" | fromYaml }}
{{- $enabled := include "vc.enabled" $root | fromYaml }}
{{- $rights := $table.own }}
{{- if $enabled.election }}
{{- $rights = concat $rights $table.election }}
{{- end }}
{{- range $word, $entry := $table.sync }}
{{- if index $enabled.words $word }}
{{- $rights = concat $rights $entry.rights }}
{{- end }}
{{- end }}
{{- range $table.metrics }}
{{- if ternary $enabled.metricsOfNodes $enabled.metricsOfPods (default false .cluster) }}
{{- $rights = append $rights (omit . "optional") }}
{{- end }}
{{- end }}
{{- $excluded := list }}
{{- if not $cluster }}
{{- $excluded = $root.Values.rbac.role.excluded }}
{{- if not $root.Values.sync.pods.ephemeralContainers }}
{{- $excluded = append $excluded "pods/ephemeralcontainers" }}
{{- end }}
{{- if not $root.Values.sync.pods.status }}
{{- $excluded = append $excluded "pods/status" }}
{{- end }}
{{- end }}
{{- $union := dict }}
{{- range $rights }}
{{- if eq (default false .cluster) $cluster }}
{{- if has .resource $excluded }}
{{- if not .optional }}
{{- fail (printf "rbac.role.excluded: the syncer cannot go without %s; switch off in sync what needs it, or drop it here" .resource) }}
{{- end }}
{{- else if or (not $cluster) (not .optional) $root.Values.rbac.clusterRole.create }}
{{- $key := printf "%s %s" .group .resource }}
{{- $verbs := concat (index (index $union $key | default dict) "verbs" | default list) .verbs | uniq | sortAlpha }}
{{- $_ := set $union $key (dict "apiGroups" (list .group) "resources" (list .resource) "verbs" $verbs) }}
{{- end }}
{{- end }}
{{- end }}
{{- $rules := list }}
{{- range $key := keys $union | sortAlpha }}
{{- $rules = append $rules (index $union $key) }}
{{- end }}
{{- $extra := ternary $root.Values.rbac.clusterRole.extraRules $root.Values.rbac.role.extraRules $cluster }}
{{- toYaml (dict "rules" (concat $rules $extra)) }}
{{- end }}

{{/* The value of --sync: what the values switch other than by default. */}}
{{- define "vc.sync" -}}
{{- $table := .Files.Get "files/rights.yaml" | fromYaml }}
{{- $parts := list }}
{{- range $word, $entry := $table.sync }}
{{- $on := (index $.Values.sync $word).enabled }}
{{- if ne $on $entry.default }}
{{- $parts = append $parts (ternary $word (printf "-%s" $word) $on) }}
{{- end }}
{{- end }}
{{- join "," $parts }}
{{- end }}
