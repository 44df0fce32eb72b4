from . import attacks as attacks
from . import defenses as defenses
from . import networks as networks
from . import probes as probes
from . import quality as quality
from .game import GeneratorGame as GeneratorGame
from .game import play as play
from .training import Training as Training
