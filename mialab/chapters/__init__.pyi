from . import adamixup as adamixup
from . import attacks as attacks
from . import mixup_gan as mixup_gan
from . import quantization as quantization
from . import rivals as rivals
from . import scale as scale
from . import settings as settings
from . import weighted_smoothing as weighted_smoothing
