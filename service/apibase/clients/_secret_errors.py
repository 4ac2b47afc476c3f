"""What daprd answers for a secret that it can't give, told apart by the component's words: the status is INTERNAL whatever it is.

The words are those of Dapr's components, read in their source; the local file's and Vault's are tried by tests.
"""

from __future__ import annotations

import grpc

from apibase.errors import SecretNotFoundError, SecretStoreUnavailable, SidecarError

# The words for a secret that is not there; the first three stores put its name in.
_NOT_FOUND = (
    "secret {} not found",  # local file
    "getSecret {} failed secret key or version not exist",  # HashiCorp Vault
    'secrets "{}" not found',  # Kubernetes
    "SecretNotFound",  # Azure Key Vault
    "ResourceNotFoundException",  # AWS Secrets Manager
    "ParameterNotFound",  # AWS Parameter Store
    "code = NotFound",  # GCP Secret Manager
)
# The words for a store that does not let the sidecar see it.
_REFUSED = (
    "status code 403",  # HashiCorp Vault, of one secret
    "status code: 403",  # of all
    "is forbidden:",  # Kubernetes
    "ForbiddenByPolicy",  # Azure Key Vault
    "ForbiddenByRbac",
    "AccessDeniedException",  # AWS
    "code = PermissionDenied",  # GCP
)
# Vault's words for a folder that has no secrets, where all were asked for.
_EMPTY = ("status code: 404", '{"errors":[]}')


def is_empty(error: SidecarError) -> bool:
    """Whether what a store answers, asked for all its secrets, is that it has none."""
    return error.code is grpc.StatusCode.INTERNAL and all(words in error.message for words in _EMPTY)


def secret_error(error: SidecarError, store: str, name: str) -> SidecarError:
    """Return what an error of the secrets API means. `name` is empty where all secrets were asked for."""
    if error.code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}:
        return error
    asked = f"failed getting secret with key {name} from secret store {store}: "
    why = error.message.removeprefix(asked if name else f"failed getting secrets from secret store {store}: ")
    if name and any(words.format(name) in why for words in _NOT_FOUND):
        return SecretNotFoundError(name, component=store)
    if any(words in why for words in _REFUSED):
        return SidecarError(grpc.StatusCode.PERMISSION_DENIED, error.reason, error.message, component=store)
    return SecretStoreUnavailable(store, why)
