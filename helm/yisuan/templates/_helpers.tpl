{{/* Names and labels. */}}
{{- define "yisuan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "yisuan.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "yisuan.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "yisuan.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What a selector holds: it must never change. Called with (list root component). */}}
{{- define "yisuan.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "yisuan.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "yisuan.labels" -}}
{{- $root := index . 0 -}}
{{ include "yisuan.selector" . }}
app.kubernetes.io/version: {{ $root.Values.image.tag | default $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: yisuan
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_") }}
{{- end }}

{{- define "yisuan.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Components that serve routes: with SQLite one pod does everything. */}}
{{- define "yisuan.front" -}}
{{ eq .Values.database.kind "sqlite" | ternary "server" "api" }}
{{- end }}

{{/* Namespaces of this cluster that jobs run in, and whether anything asks the API server at all; as JSON. */}}
{{- define "yisuan.namespaces" -}}
{{- $found := list }}
{{- range .Values.clusters }}
{{- $options := .options | default dict }}
{{- if and (eq .backend "kubernetes") (not $options.context) (not $options.kubeconfig) }}
{{- $found = append $found ($options.namespace | default "default") }}
{{- end }}
{{- end }}
{{- $found | uniq | sortAlpha | toJson }}
{{- end }}

{{- define "yisuan.asks" -}}
{{- $lease := and (eq .Values.loop.election "lease") (eq .Values.database.kind "postgresql") }}
{{- if or $lease (include "yisuan.namespaces" . | fromJsonArray) }}true{{ else }}false{{ end }}
{{- end }}

{{/* Confinement of every container but the agents'. */}}
{{- define "yisuan.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.runAs }}
runAsUser: {{ . | int64 }}
runAsGroup: {{ . | int64 }}
fsGroup: {{ . | int64 }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "yisuan.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where a process finds the database; with SQLite in its data directory. */}}
{{- define "yisuan.databaseEnv" -}}
{{- if eq .Values.database.kind "postgresql" }}
- name: YISUAN_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.existingSecret }}, key: {{ .Values.database.key }}}}
{{- end }}
{{- end }}

{{/* The pod of a process of the platform. Called with a dict: root, component, role, of (its values), data (the volume or ""). */}}
{{- define "yisuan.pod" -}}
{{- $root := .root }}
{{- $v := $root.Values }}
{{- $full := include "yisuan.fullname" $root }}
{{- $asks := eq (include "yisuan.asks" $root) "true" }}
metadata:
  labels:
    {{- include "yisuan.labels" (list $root .component) | nindent 4 }}
  annotations:
    checksum/config: {{ include (print $root.Template.BasePath "/configmap.yaml") $root | sha256sum }}
    {{- with .of.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ $full }}-{{ .component }}
  automountServiceAccountToken: {{ $asks }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add (int $v.settings.drainSeconds) 25 }}
  {{- with .of.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $v.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- include "yisuan.podSecurity" $root | nindent 4 }}
  {{- with .of.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .of.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if ne .component "server" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: {{ .of.spread }}
      whenUnsatisfiable: {{ .of.spreadElse }}
      labelSelector:
        matchLabels:
          {{- include "yisuan.selector" (list $root .component) | nindent 10 }}
      {{- if eq .component "api" }}
      matchLabelKeys: [pod-template-hash]  # replicas of the version before do not count
      {{- end }}
  {{- end }}
  initContainers:
    - name: prepare
      image: {{ include "yisuan.image" $root }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      command: [python, -c]
      args:
        - |
          {{- $root.Files.Get "files/prepare.py" | nindent 10 }}
      env:
        - {name: YISUAN_DATA_DIR, value: /var/lib/yisuan/data}
      resources:
        requests: {cpu: 10m, memory: 32Mi}
        limits: {memory: 64Mi}
      securityContext:
        {{- include "yisuan.confined" $root | nindent 8 }}
      volumeMounts:
        - {name: data, mountPath: /var/lib/yisuan}
        - {name: config, mountPath: /etc/yisuan/config, readOnly: true}
  containers:
    - name: yisuan
      image: {{ include "yisuan.image" $root }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      command: [yisuan, serve, --role={{ .role }}]
      env:
        {{- include "yisuan.databaseEnv" $root | nindent 8 }}
        - name: YISUAN_IDENTITY
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- range $name, $value := include "yisuan.settings" . | fromYaml }}
        - name: {{ $name }}
          value: {{ $value | toString | quote }}
        {{- end }}
        {{- with .of.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: http, containerPort: 8080, protocol: TCP}
      startupProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 2
        failureThreshold: 90
      livenessProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      resources: {{- toYaml .of.resources | nindent 8 }}
      securityContext:
        {{- include "yisuan.confined" $root | nindent 8 }}
      volumeMounts:
        - {name: data, mountPath: /var/lib/yisuan}
        - {name: tmp, mountPath: /tmp}
        - {name: config, mountPath: /etc/yisuan/config, readOnly: true}
        {{- if $v.parameters }}
        - {name: parameters, mountPath: /etc/yisuan/parameters, readOnly: true}
        {{- end }}
        {{- if $v.sealKey.existingSecret }}
        - {name: seal, mountPath: /etc/yisuan/seal, readOnly: true}
        {{- end }}
        {{- range $i, $mount := $v.secretMounts }}
        - {name: secret-{{ $i }}, mountPath: {{ $mount.path }}, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    - name: config
      configMap: {name: {{ $full }}-config}
    {{- if $v.parameters }}
    - name: parameters
      configMap:
        name: {{ $full }}-parameters
        items:
          {{- range $path, $_ := $v.parameters }}
          - {key: {{ $path | replace "/" "__" }}, path: {{ $path }}}
          {{- end }}
    {{- end }}
    {{- if $v.sealKey.existingSecret }}
    - name: seal
      secret:
        secretName: {{ $v.sealKey.existingSecret }}
        items: [{key: {{ $v.sealKey.key }}, path: checkpoint.key}]
        defaultMode: 0440
    {{- end }}
    {{- range $i, $mount := $v.secretMounts }}
    - name: secret-{{ $i }}
      secret: {secretName: {{ $mount.secret }}, defaultMode: 0440}
    {{- end }}
    {{- with .data }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* The YISUAN_* variables of a process, as YAML. Called as yisuan.pod. */}}
{{- define "yisuan.settings" -}}
{{- $root := .root }}
{{- $s := $root.Values.settings -}}
HOME: /var/lib/yisuan
YISUAN_DATA_DIR: /var/lib/yisuan/data
YISUAN_HOST: 0.0.0.0
YISUAN_PORT: "8080"
{{- with $s.ledger }}
YISUAN_LEDGER: {{ . }}
{{- end }}
YISUAN_POLICY: {{ $s.policy }}
YISUAN_VOUCHER_POLICY: {{ $s.voucherPolicy }}
YISUAN_MOVES_PER_HOUR: {{ $s.movesPerHour | int64 | quote }}
YISUAN_CHALLENGE_HOURS: {{ $s.challengeHours | int64 | quote }}
YISUAN_TICK_MS: {{ $s.tickMs | int64 | quote }}
YISUAN_DRAIN_S: {{ $s.drainSeconds | quote }}
YISUAN_LANG: {{ $s.lang }}
YISUAN_PAGES_OPEN: {{ $s.pagesOpen | quote }}
YISUAN_CONFINEMENT: {{ $s.confinement }}
{{- if $root.Values.sealKey.existingSecret }}
YISUAN_CHECKPOINT_KEY: /etc/yisuan/seal/checkpoint.key
{{- end }}
{{- if $root.Values.parameters }}
YISUAN_PARAMETERS_DIR: /etc/yisuan/parameters
{{- end }}
{{- if and (eq .role "all") (eq .component "loop") (eq $root.Values.loop.election "lease") }}
YISUAN_LEASE: {{ $root.Release.Namespace }}/{{ include "yisuan.fullname" $root }}-loop
{{- end }}
{{- end }}
