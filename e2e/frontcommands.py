"""The commands that have to be the same through the front door and directly, in groups; those of a group build on one another."""

from __future__ import annotations

from e2e.front import Command

IMAGE = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"


def _config_map(name: str, colour: str, **metadata: str) -> str:
    more = "".join(f"\n  {key}: {value}" for key, value in metadata.items())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}{more}\ndata:\n  colour: {colour}\n"


def _patch(what: str, body: str, code: int = 0) -> Command:
    return Command(f"patch {what} -p '{body}'", code=code)


_GADGETS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.{ns}.example.com}
spec:
  group: "{ns}.example.com"
  scope: Namespaced
  names: {plural: gadgets, singular: gadget, kind: Gadget, shortNames: [gd], categories: [things]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        description: Something small
        properties:
          spec: {type: object, properties: {size: {type: integer, maximum: 9, description: How many}}}
          status: {type: object, properties: {size: {type: integer}}}
"""


def _gadget(size: int) -> str:
    return f'apiVersion: "{{ns}}.example.com/v1"\nkind: Gadget\nmetadata: {{name: one}}\nspec: {{size: {size}}}\n'


_REQUEST = """
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: "{ns}"}
spec:
  request: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==
  signerName: kubernetes.io/kube-apiserver-client
  usages: [client auth]
"""

_ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: again, namespace: "{ns}"}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
"""

_ABSENT_SERVER = """
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: "v1.absent.{ns}.example.com"}
spec:
  {group: "absent.{ns}.example.com", version: v1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true,
   service: {name: absent, namespace: "{ns}"}}
"""

ABOUT_IT = [
    Command("version"),
    Command("version -o json"),
    Command("cluster-info"),
    Command("api-versions"),
    Command("api-resources -o wide --sort-by=name"),
    Command("api-resources --namespaced=false -o name"),
    Command("explain pods.spec.containers"),
    Command("explain deployments --recursive"),
    Command("explain deployments.spec.nothing", code=1),
    Command("explain pods.spec --output=plaintext-openapiv2"),
    Command("get --raw /readyz?verbose"),
    Command("get --raw /nothing", code=1),
    Command("get --raw /api/v1/namespaces/default/nothing", code=1),
    Command("get --raw /apis/nothing.example.com/v1", code=1),
]

READING = [
    *(
        Command(f"get namespace default {form}")
        for form in (
            *("", "-o wide", "-o yaml", "-o json", "-o name", "--show-labels", "--no-headers", "-L kubernetes.io/metadata.name"),
            "-o jsonpath={.metadata.name}",
            "-o custom-columns=N:.metadata.name,P:.status.phase",
            "-o go-template={{.status.phase}}",
            "--output-watch-events=false --show-managed-fields -o yaml",
        )
    ),
    Command("get clusterroles"),
    Command("get clusterroles -o json"),
    Command("get clusterroles --chunk-size=10 -o name"),
    Command("get clusterroles,clusterrolebindings -l kubernetes.io/bootstrapping=rbac-defaults -o name"),
    Command("get namespaces --field-selector=metadata.name=default"),
    Command("get apiservices"),
    Command("get flowschemas,prioritylevelconfigurations"),
    Command("get service,serviceaccount --namespace=default"),
    Command("get service kubernetes --namespace=default -o yaml"),
    Command("get endpoints --namespace=default"),  # which API servers warn of
    Command("get nodes -o name"),
    Command("describe clusterrole view"),
    Command("describe namespace default"),
    Command("get configmap nothing", code=1),
    Command("get nothing", code=1),
    Command("get configmap --namespace=nothing"),
    Command("get configmap -l =", code=1),
    Command("get configmap --field-selector=data.a=b", code=1),
]

WRITING = [
    Command("create configmap one --from-literal=colour=red"),
    Command("create configmap one --from-literal=colour=red", code=1),
    Command("get configmap one -o yaml --show-managed-fields"),
    Command("label configmap one size=big"),
    Command("label configmap one size=small", code=1),
    Command("label configmap one size=small --overwrite"),
    Command("annotate configmap one note=here"),
    _patch("configmap one --type=merge", '{"data":{"a":"b"}}'),
    _patch("configmap one --type=strategic", '{"data":{"a":null}}'),
    _patch("configmap one --type=json", '[{"op":"add","path":"/data/c","value":"d"}]'),
    _patch("configmap one --type=json", '[{"op":"test","path":"/data/c","value":"e"}]', code=1),
    _patch("configmap one --type=merge", '{"data":{"a":{"b":1}}}', code=1),
    _patch("configmap one --type=merge", '{"metadata":{"resourceVersion":"1"}}', code=1),
    _patch("configmap none --type=merge", '{"data":{"a":"b"}}', code=1),
    Command("edit configmap one"),
    Command("get configmap one -o jsonpath={.data}"),
    Command("diff -f -", _config_map("one", "green"), code=1),
    Command("apply -f -", _config_map("one", "green")),  # with a warning: it was not made so
    Command("apply -f -", _config_map("one", "green")),
    Command("diff -f -", _config_map("one", "green")),
    Command("apply view-last-applied configmap one"),
    Command("apply --server-side -f -", _config_map("two", "red")),
    Command("apply --server-side -f -", _config_map("two", "red")),
    Command("apply --server-side --field-manager=other -f -", _config_map("two", "blue"), code=1),
    Command("apply --server-side --field-manager=other --force-conflicts -f -", _config_map("two", "blue")),
    Command("get configmap two -o json --show-managed-fields"),
    Command("replace -f -", _config_map("two", "grey")),
    Command("replace -f -", _config_map("two", "grey", resourceVersion='"1"'), code=1),
    Command("replace --force -f -", _config_map("two", "white")),
    Command("create --dry-run=server -o yaml -f -", _config_map("three", "red")),
    Command("apply --dry-run=server -f -", _config_map("three", "red")),
    Command("delete --dry-run=server configmap one"),
    Command("get configmap -o name"),
    Command("create -f -", _config_map("Wrong_Name", "red"), code=1),
    Command("create -f -", _config_map("odd", "red") + "more: 1\n", code=1),
    Command("create --validate=warn -f -", _config_map("odd", "red") + "more: 1\n"),
    Command("create --validate=false -f -", _config_map("bad", "[]"), code=1),
    Command("create -f -", _config_map("lost", "red", namespace="nothing"), code=1),
    Command("create --raw /api/v1/namespaces/{ns}/configmaps -f -", '{"metadata": {"name": "raw"}, "data": {"colour": "red"}}'),
    Command("create --raw /api/v1/namespaces/{ns}/configmaps -f -", '{"metadata": {"name": "raw"', code=1),
    Command("replace --raw /api/v1/namespaces/{ns}/configmaps/raw -f -", '{"metadata": {"name": "raw"}}'),
    Command("delete --raw /api/v1/namespaces/{ns}/configmaps/raw"),
    Command("create secret generic hush --from-literal=word=quiet"),
    Command("describe secret hush"),
    Command("wait --for=jsonpath={.data.colour}=green configmap one"),
    Command("wait --for=jsonpath={.data.colour}=green configmap two --timeout=1s", code=1),
    Command("delete configmap one"),
    Command("wait --for=delete configmap one"),
    Command("delete configmap one", code=1),
    Command("delete configmap one --ignore-not-found"),
    Command("delete configmap,secret --field-selector=metadata.name!=kube-root-ca.crt"),
]

RUNNING = [
    Command(f"create deployment web --image={IMAGE} --replicas=2 -- sleep 1d"),
    Command("wait --for=condition=Available deployment web --timeout=60s"),
    Command("wait --for=jsonpath={.status.readyReplicas}=2 deployment web --timeout=60s"),
    *(Command(f"get {what}") for what in ("deployment", "deployment -o wide", "replicaset", "pods", "pods -o wide", "pods -o name")),
    Command("scale deployment web --replicas=3"),
    Command("scale deployment web --replicas=1 --current-replicas=9", code=1),
    Command("wait --for=jsonpath={.status.readyReplicas}=3 deployment web --timeout=60s"),
    Command("get deployment web --subresource=scale"),
    _patch("deployment web --subresource=scale --type=merge", '{"spec":{"replicas":1}}'),
    Command("set env deployment web COLOUR=red"),
    Command("wait --for=jsonpath={.status.observedGeneration}=4 deployment web --timeout=60s"),
    Command("rollout history deployment web", patient=True),
    Command("rollout history deployment web --revision=1"),
    Command("rollout undo deployment web"),
    Command("rollout restart deployment web"),
    Command("rollout pause deployment web"),
    Command("rollout resume deployment web"),
    Command("autoscale deployment web --min=1 --max=3 --cpu=80%"),
    Command("expose deployment web --port=80 --type=NodePort"),
    Command("get service"),
    Command("get service web -o jsonpath={.spec.type}"),
    Command(f"run alone --image={IMAGE} --restart=Never --labels=a=b -- sleep 1d"),
    Command("wait --for=condition=Ready pod alone --timeout=60s"),
    Command("get pods -l a=b --show-labels"),
    Command("get pod alone -o custom-columns=A:.metadata.name,B:.status.phase,C:.spec.containers[*].image"),
    Command("get --raw /api/v1/namespaces/{ns}/pods/alone/nothing", code=1),
    _patch("pod alone --type=merge", '{"spec":{"nodeName":"other"}}', code=1),
    Command("delete pod alone --now"),
    Command(f"create cronjob nightly --image={IMAGE} --schedule='0 0 * * *' -- true"),
    Command("create job today --from=cronjob/nightly"),
    Command("get cronjob"),
    Command("delete cronjob nightly --cascade=orphan"),
    Command("delete job,hpa --all"),
    Command("delete service web"),
    Command("delete deployment web --cascade=foreground"),
    Command("wait --for=delete pod -l app=web --timeout=60s"),
]

RIGHTS = [
    Command("auth whoami"),
    Command("auth whoami -o yaml", user="jane"),
    Command("auth whoami -o json", user="robot"),
    Command("auth whoami", user="stale", code=1),
    Command("auth can-i --list", user="mallory"),
    Command("auth can-i create pods"),
    Command("auth can-i create pods", user="mallory", code=1),
    *(Command("get secrets", user=user, code=1) for user in ("jane", "mallory", "robot", "stale")),
    Command("create deployment web --image=a", user="jane", code=1),
    Command("get --raw /metrics", user="mallory", code=1),
    Command("create role reader --verb=get,list,watch --resource=configmaps"),
    Command("create rolebinding devs --role=reader --group=devs"),
    Command("create rolebinding robot --role=reader --serviceaccount=default:robot"),
    *(Command("get configmaps", user=user, patient=True) for user in ("jane", "robot")),
    Command("auth can-i --list", user="jane"),
    Command("delete configmap kube-root-ca.crt", user="jane", code=1),
    Command("get configmaps --all-namespaces", user="jane", code=1),
    Command("get configmaps --as=jane", code=1),
    Command("get configmaps --as=jane --as-group=devs"),
    Command("auth whoami --as=jane --as-group=devs --as-group=ops --as-uid=17"),
    Command("auth whoami --as=system:serviceaccount:default:robot"),
    Command("auth can-i list configmaps --as=system:serviceaccount:default:robot"),
    Command("get configmaps --as=admin --as-group=system:masters", user="jane", code=1),
    Command("get configmaps --as-group=devs", code=1),
    Command("create role more --verb=* --resource=secrets --as=jane --as-group=devs", code=1),
    Command("auth reconcile -f -", _ROLE),
    Command("create serviceaccount guest"),
    Command("create token guest --duration=1h"),
    Command("create token guest --bound-object-kind=Pod --bound-object-name=none", code=1),
    Command("create -f -", _REQUEST, code=1),  # there is no certificate in it
]

NEW_TYPES = [
    Command("apply -f -", _GADGETS),
    Command("wait --for=condition=Established crd gadgets.{ns}.example.com --timeout=60s"),
    Command("get gadgets", patient=True),
    Command("explain gadgets.{ns}.example.com.spec", patient=True),
    Command("apply -f -", _gadget(3), patient=True),
    Command("get gadgets.{ns}.example.com"),
    Command("get gadgets.{ns}.example.com one -o yaml"),
    Command("apply -f -", _gadget(10), code=1),
    Command("apply --server-side --force-conflicts -f -", _gadget(4)),
    Command("scale gadgets.{ns}.example.com one --replicas=5"),
    _patch("gadgets.{ns}.example.com one --subresource=status --type=merge", '{"status":{"size":5}}'),
    _patch("gadgets.{ns}.example.com one --type=strategic", '{"spec":{"size":5}}', code=1),
    Command("wait --for=jsonpath={.status.size}=5 gadgets.{ns}.example.com one"),
    Command("get gadgets.{ns}.example.com one -o json --show-managed-fields"),
    Command("get gadgets.{ns}.example.com", user="mallory", code=1),
    Command("delete gadgets.{ns}.example.com --all"),
    Command("delete crd gadgets.{ns}.example.com"),
    Command("get --raw /apis/{ns}.example.com/v1", code=1, patient=True),
    Command("apply -f -", _ABSENT_SERVER),
    Command("get apiservice v1.absent.{ns}.example.com", patient=True),
    Command("get --raw /apis/absent.{ns}.example.com/v1/things", code=1),
    Command("delete apiservice v1.absent.{ns}.example.com"),
]

ALL = {
    "about it": ABOUT_IT,
    "reading": READING,
    "writing": WRITING,
    "running": RUNNING,
    "rights": RIGHTS,
    "new types": NEW_TYPES,
}
