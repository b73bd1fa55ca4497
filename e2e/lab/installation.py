"""What the chart needs in a lab, where no image can be pulled: images of the lab's own, and values that name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from e2e.lab import images, k3s_image, node, syncer_image

if TYPE_CHECKING:
    from e2e.lab.state import Lab


def values() -> dict[str, Any]:
    """For `helm install` and `syncer create`."""
    policy = {"imagePullPolicy": "Never"}
    return {
        "syncer": {"image": syncer_image.SYNCER, **policy},
        "vcluster": {"image": k3s_image.tag(), **policy},
        "coredns": {"image": images.COREDNS, **policy},
        "storage": {"persistence": False},
    }


def prepare(lab: Lab) -> None:
    """Give the real node, which must be up, the images. The first time they take a moment to make."""
    node.import_images(lab, syncer_image.build(), k3s_image.build())
