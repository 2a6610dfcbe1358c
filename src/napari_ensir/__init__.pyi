from .ensemble.compare.compare import compare as compare
from .ensemble.estimator import LUTEnsemble as LUTEnsemble
from .ensemble.fit import FitSession as FitSession
from .ensemble.fit import fit_lut as fit_lut
from .ensemble.lut.load import import_lut as import_lut
from .ensemble.lut.load import load_lut as load_lut
from .ensemble.lut.lut import WeightLUT as WeightLUT
from .errors import EnsembleError as EnsembleError
from .restorers.self_supervised.learn import learn_blind as learn_blind

__version__: str
