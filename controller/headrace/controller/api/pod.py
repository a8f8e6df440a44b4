"""core/v1's PodSpec and Container as far as we look into them: plain dicts with typed fields.

A field that is not listed here is unknown to Kubernetes; what lies below a field of type `Open` is
passed on as it came. Source: core/v1 of Kubernetes 1.35.
"""

from typing import Any, TypedDict

Open = dict[str, Any]


class EnvVar(TypedDict, total=False):
    name: str
    value: str
    valueFrom: Open


class Port(TypedDict, total=False):
    containerPort: int
    hostIP: str
    hostPort: int
    name: str
    protocol: str


class Resources(TypedDict, total=False):
    limits: dict[str, str | int | float]
    requests: dict[str, str | int | float]
    claims: list[Open]


class Container(TypedDict, total=False):
    name: str
    image: str
    command: list[str]
    args: list[str]
    env: list[EnvVar]
    envFrom: list[Open]
    imagePullPolicy: str
    lifecycle: Open
    livenessProbe: Open
    ports: list[Port]
    readinessProbe: Open
    resizePolicy: list[Open]
    resources: Resources
    restartPolicy: str
    restartPolicyRules: list[Open]
    securityContext: Open
    startupProbe: Open
    stdin: bool
    stdinOnce: bool
    terminationMessagePath: str
    terminationMessagePolicy: str
    tty: bool
    volumeDevices: list[Open]
    volumeMounts: list[Open]
    workingDir: str


class PodSpec(TypedDict, total=False):
    activeDeadlineSeconds: int
    affinity: Open
    automountServiceAccountToken: bool
    containers: list[Container]
    dnsConfig: Open
    dnsPolicy: str
    enableServiceLinks: bool
    ephemeralContainers: list[Open]
    hostAliases: list[Open]
    hostIPC: bool
    hostNetwork: bool
    hostPID: bool
    hostUsers: bool
    hostname: str
    hostnameOverride: str
    imagePullSecrets: list[Open]
    initContainers: list[Container]
    nodeName: str
    nodeSelector: dict[str, str]
    os: Open
    overhead: Open
    preemptionPolicy: str
    priority: int
    priorityClassName: str
    readinessGates: list[Open]
    resourceClaims: list[Open]
    resources: Resources
    restartPolicy: str
    runtimeClassName: str
    schedulerName: str
    schedulingGates: list[Open]
    securityContext: Open
    serviceAccount: str
    serviceAccountName: str
    setHostnameAsFQDN: bool
    shareProcessNamespace: bool
    subdomain: str
    terminationGracePeriodSeconds: int
    tolerations: list[Open]
    topologySpreadConstraints: list[Open]
    volumes: list[Open]


PREDICTOR_CONTAINER = "kserve-container"
TRANSFORMER_CONTAINER = "transformer-container"
WORKER_CONTAINER = "worker-container"


def env_value(container: Container, name: str) -> str | None:
    """The literal value of the variable, "" where it comes from elsewhere, None where unset."""
    for variable in container.get("env", []):
        if variable.get("name") == name:
            return variable.get("value", "")
    return None


def named(containers: list[Container], name: str) -> Container | None:
    return next((each for each in containers if each.get("name") == name), None)
