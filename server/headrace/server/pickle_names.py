"""What a pickled model may name. Classes and functions one by one, estimators by one rule.

    name in NAMES                                  → itself (or its stand-in)
    sklearn.<package>.…, a class defined there and
      derived from BaseEstimator, Kernel, …        → itself
    numpy.…, a ufunc                               → itself
    anything else                                  → refused

Never on the list: functions that call what they are given (`functools.partial`, `operator.*`,
`getattr`), open files (`numpy.load`, `numpy.memmap`, `joblib.load`), or compile text
(scipy.stats' distributions, whose `__setstate__` runs `exec`).
"""

import copyreg
import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.random import BitGenerator, _pickle

PACKAGES = frozenset(  # of scikit-learn; its tests, data sets and utils are not among them
    [
        "base",
        "calibration",
        "cluster",
        "compose",
        "covariance",
        "cross_decomposition",
        "decomposition",
        "discriminant_analysis",
        "dummy",
        "ensemble",
        "feature_extraction",
        "feature_selection",
        "gaussian_process",
        "impute",
        "isotonic",
        "kernel_approximation",
        "kernel_ridge",
        "linear_model",
        "manifold",
        "mixture",
        "model_selection",
        "multiclass",
        "multioutput",
        "naive_bayes",
        "neighbors",
        "neural_network",
        "pipeline",
        "preprocessing",
        "random_projection",
        "semi_supervised",
        "svm",
        "tree",
        "frozen",
    ]
)
BASES = (  # a class of PACKAGES must derive from one of these
    "sklearn.base.BaseEstimator",
    "sklearn.gaussian_process.kernels.Kernel",
    "sklearn.model_selection._split.BaseCrossValidator",
    "sklearn.model_selection._split._RepeatedSplits",
    "sklearn.neural_network._stochastic_optimizers.BaseOptimizer",
)

# module: names. Only what a pickle builds or refers to; what it may call is CALLED's.
_LISTED = {
    "builtins": "set frozenset complex slice list dict tuple int float bool str object",
    "collections": "OrderedDict defaultdict Counter deque",
    "datetime": "date datetime time timedelta",
    "decimal": "Decimal",
    "uuid": "UUID",
    "numpy": """dtype ndarray bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16
        float32 float64 longdouble number integer floating
        generic bool complex64 complex128 str_ bytes_ datetime64 timedelta64 object_
        mean median sum max min nan_to_num clip""",
    "numpy.ma": "MaskedArray",
    "numpy.ma.core": "MaskedArray _mareconstruct",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64 PCG64DXSM",
    "numpy.random._philox": "Philox",
    "numpy.random._sfc64": "SFC64",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    "numpy.random._bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    "scipy._lib.array_api_compat.numpy._aliases": "asarray",
    "scipy.interpolate._bsplines": "BSpline",
    "sklearn._loss.link": """Interval IdentityLink LogLink LogitLink HalfLogitLink
        MultinomialLogit""",
    "sklearn._loss.loss": """HalfSquaredError AbsoluteError PinballLoss HuberLoss HalfPoissonLoss
        HalfGammaLoss HalfTweedieLoss HalfTweedieLossIdentity HalfBinomialLoss HalfMultinomialLoss
        ExponentialLoss""",
    "sklearn._loss._loss": " ".join(
        f"Cy{loss} __pyx_unpickle_Cy{loss}"
        for loss in [
            "HalfSquaredError",
            "AbsoluteError",
            "PinballLoss",
            "HuberLoss",
            "HalfPoissonLoss",
            "HalfGammaLoss",
            "HalfTweedieLoss",
            "HalfTweedieLossIdentity",
            "HalfBinomialLoss",
            "HalfMultinomialLoss",
            "ExponentialLoss",
        ]
    ),
    "sklearn.calibration": "_CalibratedClassifier _SigmoidCalibration _TemperatureScaling",
    "sklearn.cluster._birch": "_CFNode _CFSubcluster",
    "sklearn.cluster._bisect_k_means": "_BisectingTree",
    "sklearn.cluster._kmeans": "_kmeans_single_lloyd _kmeans_single_elkan",
    "sklearn.compose._column_transformer": "_RemainderColsList make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.predictor": "TreePredictor",
    "sklearn.feature_selection._univariate_selection": """f_classif f_regression f_oneway chi2
        r_regression""",
    "sklearn.feature_selection._mutual_info": "mutual_info_classif mutual_info_regression",
    "sklearn.linear_model._sgd_fast": """Hinge SquaredHinge Log SquaredLoss Huber
        EpsilonInsensitive SquaredEpsilonInsensitive ModifiedHuber""",
    "sklearn.metrics._scorer": "_PassthroughScorer _Scorer _CurveScorer _MultimetricScorer",
    "sklearn.metrics._classification": """accuracy_score balanced_accuracy_score f1_score
        precision_score recall_score jaccard_score log_loss matthews_corrcoef brier_score_loss
        fbeta_score cohen_kappa_score""",
    "sklearn.metrics._ranking": """roc_auc_score average_precision_score top_k_accuracy_score""",
    "sklearn.metrics._regression": """r2_score mean_squared_error mean_absolute_error
        median_absolute_error max_error explained_variance_score root_mean_squared_error
        mean_absolute_percentage_error mean_squared_log_error root_mean_squared_log_error
        mean_poisson_deviance mean_gamma_deviance""",
    "sklearn.metrics.pairwise": """rbf_kernel linear_kernel polynomial_kernel sigmoid_kernel
        laplacian_kernel cosine_similarity chi2_kernel additive_chi2_kernel euclidean_distances
        manhattan_distances cosine_distances""",
    "sklearn.metrics._dist_metrics": " ".join(
        f"{name}Distance{bits}"
        for name in [
            "Euclidean",
            "SEuclidean",
            "Manhattan",
            "Chebyshev",
            "Minkowski",
            "Mahalanobis",
            "Hamming",
            "Canberra",
            "BrayCurtis",
            "Jaccard",
            "Matching",
            "Dice",
            "RogersTanimoto",
            "RussellRao",
            "SokalMichener",
            "SokalSneath",
            "Haversine",
        ]
        for bits in ("", "32", "64")
    ),
    "sklearn.neighbors._kd_tree": "KDTree KDTree32 KDTree64",
    "sklearn.neighbors._ball_tree": "BallTree BallTree32 BallTree64",
    "sklearn.neural_network._stochastic_optimizers": "AdamOptimizer SGDOptimizer",
    "sklearn.tree._tree": "Tree",
    "sklearn.utils._bunch": "Bunch",
    "sklearn.utils._metadata_requests": "MetadataRequest MethodMetadataRequest",
    "xgboost.core": "Booster",
    "xgboost.sklearn": """XGBModel XGBClassifier XGBRegressor XGBRanker XGBRFClassifier
        XGBRFRegressor""",
    "lightgbm.basic": "Booster",
    "lightgbm.sklearn": "LGBMModel LGBMClassifier LGBMRegressor LGBMRanker",
}
for _kind in ("csr", "csc", "coo", "bsr", "dia", "dok", "lil"):
    _classes = f"{_kind}_matrix {_kind}_array"
    _LISTED[f"scipy.sparse._{_kind}"] = _LISTED[f"scipy.sparse.{_kind}"] = _classes

NAMES = {(module, name) for module, names in _LISTED.items() for name in names.split()}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # protocols 0 to 2 write these


def _text_as_bytes(text: str = "", encoding: str = "latin1") -> bytes:
    """`_codecs.encode` as protocols 0 to 2 use it for bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _bytes(content: Any = b"", encoding: str = "latin1") -> bytes:
    """`bytes` of content, never of a length: that would allocate whatever the file says."""
    return content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))


def _bytearray(content: Any = b"", encoding: str = "latin1") -> bytearray:
    return bytearray(_bytes(content))


def _reconstructed(klass: Any, base: Any, state: Any) -> Any:
    """`copyreg._reconstructor`, which calls base's `__init__`: for Python's own classes only."""
    if base not in (object, dict, list, tuple, set, frozenset, int, float, complex, str):
        raise ValueError(f"an instance made by {base!r}")
    return copyreg._reconstructor(klass, base, state)  # type: ignore[attr-defined]  # typeshed


def _random(make: Callable[[Any], Any]) -> Callable[..., Any]:
    """One of numpy's makers of generators, which call what they are given, without that."""

    def made(generator: Any = "MT19937", ignored: Any = None) -> Any:
        kind = generator if isinstance(generator, type) else type(generator)
        if not issubclass(kind, str | BitGenerator):
            raise ValueError(f"a random generator made by {kind.__name__}")
        return make(generator)

    return made


def _new(klass: Any) -> Any:
    """scikit-learn's `newObj`: it calls its argument's `__new__`, which may be an attribute."""
    if not isinstance(klass, type):
        raise ValueError(f"an instance of a {type(klass).__name__}")
    make: Any = klass.__new__
    return make(klass)


STAND_INS: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _text_as_bytes,
    ("copyreg", "_reconstructor"): _reconstructed,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytearray,
    **{
        ("numpy.random._pickle", name): _random(getattr(_pickle, name))
        for name in ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor")
    },
    **{
        (f"sklearn.{module}", "newObj"): _new
        for module in ("metrics._dist_metrics", "neighbors._kd_tree", "neighbors._ball_tree")
    },
    ("numpy", "memmap"): np.ndarray,  # a memory-mapped array is saved as an array
    ("numpy.core.memmap", "memmap"): np.ndarray,
    ("numpy._core.memmap", "memmap"): np.ndarray,
}
# What REDUCE may call. Every other class is made by `__new__` and filled by its state, every other
# function is only referred to, e.g. as a parameter.
CALLED = {
    "builtins": "set frozenset complex slice list dict tuple object",
    "collections": "OrderedDict defaultdict Counter deque",
    "datetime": "date datetime time timedelta",
    "decimal": "Decimal",
    "numpy": "dtype",
    "sklearn.tree._tree": "Tree",
}
_CALLED_NAMES = frozenset(
    [
        "_reconstruct",
        "scalar",
        "_frombuffer",
        "_mareconstruct",
    ]
)
_CALLED_MODULES = frozenset({"sklearn._loss._loss", "sklearn.linear_model._sgd_fast"})
_callable_ids: set[int] = {id(stand_in) for stand_in in STAND_INS.values()} - {id(np.ndarray)}


UMATH = "numpy._core._multiarray_umath"


@cache
def find_allowed(module: str, name: str) -> Any:
    """The object, or None where it is not allowed. Imports nothing that is not on the list."""
    module = _PYTHON_2.get(module, module)
    if (module, name) in STAND_INS:
        return STAND_INS[module, name]
    if "." in name:
        return None
    if (module, name) in NAMES:
        found = getattr(importlib.import_module(module), name)
        if _is_called(module, name):
            _callable_ids.add(id(found))  # modules keep it alive
        return found
    parts = module.split(".")
    if parts[0] == "numpy" and module in ("numpy", "numpy.core._multiarray_umath", UMATH):
        found = getattr(np, name, None)
        return found if isinstance(found, np.ufunc) else None
    if parts[0] == "sklearn" and len(parts) > 1 and parts[1] in PACKAGES and "tests" not in parts:
        found = getattr(importlib.import_module(module), name, None)
        if isinstance(found, type) and found.__module__ == module and issubclass(found, _bases()):
            return found
    return None


@cache
def _bases() -> tuple[type, ...]:
    found = []
    for path in BASES:
        module, _, name = path.rpartition(".")
        found.append(getattr(importlib.import_module(module), name))
    return tuple(found)


def is_builder(function: Any) -> bool:
    """True if a pickle may call function, which came from `find_allowed`."""
    return id(function) in _callable_ids


def _is_called(module: str, name: str) -> bool:
    return (
        name in CALLED.get(module, "").split()
        or name in _CALLED_NAMES
        or name.startswith("__pyx_unpickle_")
        or module in _CALLED_MODULES
    )
