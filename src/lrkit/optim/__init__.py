"""Optimizers as three parts, ``θ ← θ − (η/σ)·m``: a direction, a scale, a decay, each a choice of yours.

Those that have names are here, with torch's arguments; parts are in `direction`, `scale`, `decay`, `factor`, and `Optimizer`
puts them together. All of them run as fast as memory allows.
"""

from lrkit.optim import decay as decay
from lrkit.optim import direction as direction
from lrkit.optim import factor as factor
from lrkit.optim import scale as scale
from lrkit.optim.adam import AdaBelief as AdaBelief
from lrkit.optim.adam import Adam as Adam
from lrkit.optim.adam import AdamW as AdamW
from lrkit.optim.adam import AMSGrad as AMSGrad
from lrkit.optim.adam import NAdam as NAdam
from lrkit.optim.adam import RAdam as RAdam
from lrkit.optim.adaptive import RMS as RMS
from lrkit.optim.adaptive import Adadelta as Adadelta
from lrkit.optim.adaptive import Adagrad as Adagrad
from lrkit.optim.adaptive import RMSprop as RMSprop
from lrkit.optim.momentum import SGD as SGD
from lrkit.optim.momentum import Lion as Lion
from lrkit.optim.momentum import Momentum as Momentum
from lrkit.optim.momentum import Nesterov as Nesterov
from lrkit.optim.optimizer import Optimizer as Optimizer

__all__ = [
    "RMS", "SGD", "AMSGrad", "AdaBelief", "Adadelta", "Adagrad", "Adam", "AdamW", "Lion", "Momentum", "NAdam", "Nesterov",
    "Optimizer", "RAdam", "RMSprop", "decay", "direction", "factor", "scale",
]  # fmt: skip
