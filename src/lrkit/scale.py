"""`lrkit.scale`: a rate carried over to another batch size, width or horizon. It lives in the finder's room; here is the door."""

from lrkit.finder.transfer import Scaled as Scaled
from lrkit.finder.transfer import batch as batch
from lrkit.finder.transfer import horizon as horizon
from lrkit.finder.transfer import noise_scale as noise_scale
from lrkit.finder.width import mup_init as mup_init
from lrkit.finder.width import width as width

__all__ = ["Scaled", "batch", "horizon", "mup_init", "noise_scale", "width"]
