"""What people save with joblib and pickle loads through the list and predicts as it did before."""

import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn import (
    calibration,
    cluster,
    compose,
    cross_decomposition,
    decomposition,
    discriminant_analysis,
    dummy,
    ensemble,
    feature_selection,
    gaussian_process,
    impute,
    isotonic,
    kernel_approximation,
    kernel_ridge,
    linear_model,
    mixture,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    preprocessing,
    random_projection,
    svm,
    tree,
)
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.metrics import make_scorer, mean_squared_error
from sklearn.pipeline import FeatureUnion, make_pipeline
from xgboost import XGBClassifier, XGBRegressor

from headrace.server import load_pickle

RANDOM = np.random.default_rng(7)
ROWS = RANDOM.normal(size=(50, 4))
NEW_ROWS = ROWS[::-1] + 0.1
LABELS = (ROWS[:, 0] + 0.3 * RANDOM.normal(size=50) > 0).astype(np.int64)
THREE = np.arange(50) % 3
NUMBERS = ROWS @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.1 * RANDOM.normal(size=50)
FRAME = pd.DataFrame(
    {
        "age": ROWS[:, 0],
        "fare": np.where(np.arange(50) % 9, ROWS[:, 1], np.nan),
        "port": ["north", "south", "west"] * 16 + ["north", "west"],
    }
)
TEXTS = [f"{'good warm' if label else 'cold grey'} day {n % 5}" for n, label in enumerate(LABELS)]
WORDS = np.array(["no", "yes"])[LABELS]

SCALED = preprocessing.StandardScaler
LOGISTIC = linear_model.LogisticRegression
STUMP = tree.DecisionTreeClassifier(max_depth=2, random_state=0)


def forest() -> Any:
    return ensemble.RandomForestClassifier(5, random_state=0)


def columns() -> Any:
    numeric = make_pipeline(impute.SimpleImputer(strategy="median"), SCALED())
    return compose.ColumnTransformer(
        [
            ("numbers", numeric, ["age", "fare"]),
            ("words", preprocessing.OneHotEncoder(handle_unknown="ignore"), ["port"]),
        ]
    )


def selected_columns() -> Any:
    chosen = compose.make_column_selector(dtype_include="number")
    return compose.ColumnTransformer(
        [("numbers", impute.KNNImputer(), chosen)],
        remainder=preprocessing.OrdinalEncoder(),
    )


CLASSIFIERS: dict[str, Any] = {
    "logistic regression": LOGISTIC(),
    "logistic regression, chosen by CV": linear_model.LogisticRegressionCV(
        Cs=2, cv=2, scoring="accuracy", l1_ratios=(0.0,), use_legacy_attributes=False
    ),
    "ridge classifier": linear_model.RidgeClassifier(),
    "SGD, hinge": linear_model.SGDClassifier(random_state=0),
    "SGD, log loss": linear_model.SGDClassifier(loss="log_loss", random_state=0),
    "SGD, modified huber": linear_model.SGDClassifier(loss="modified_huber", random_state=0),
    "perceptron": linear_model.Perceptron(random_state=0),
    "decision tree": STUMP,
    "extra tree": tree.ExtraTreeClassifier(random_state=0),
    "random forest": ensemble.RandomForestClassifier(5, random_state=np.random.RandomState(3)),
    "extra trees": ensemble.ExtraTreesClassifier(5, random_state=0),
    "gradient boosting": ensemble.GradientBoostingClassifier(n_estimators=5, random_state=0),
    "gradient boosting over another model": ensemble.GradientBoostingClassifier(
        n_estimators=3, init=LOGISTIC(), random_state=0
    ),
    "gradient boosting, exponential": ensemble.GradientBoostingClassifier(
        n_estimators=3, loss="exponential", random_state=0
    ),
    "histogram gradient boosting": ensemble.HistGradientBoostingClassifier(
        max_iter=5, random_state=0
    ),
    "AdaBoost": ensemble.AdaBoostClassifier(STUMP, n_estimators=3, random_state=0),
    "bagging": ensemble.BaggingClassifier(STUMP, n_estimators=3, random_state=0),
    "voting": ensemble.VotingClassifier([("a", LOGISTIC()), ("b", STUMP)], voting="soft"),
    "stacking": ensemble.StackingClassifier(
        [("a", STUMP), ("b", naive_bayes.GaussianNB())], LOGISTIC(), cv=2
    ),
    "SVC, rbf": svm.SVC(),
    "SVC, polynomial": svm.SVC(kernel="poly", degree=2),
    "nu SVC": svm.NuSVC(),
    "linear SVC": svm.LinearSVC(random_state=0),
    "nearest neighbours, k-d tree": neighbors.KNeighborsClassifier(3, algorithm="kd_tree"),
    "nearest neighbours, ball tree": neighbors.KNeighborsClassifier(3, algorithm="ball_tree"),
    "nearest neighbours, brute": neighbors.KNeighborsClassifier(3, algorithm="brute"),
    "nearest neighbours, manhattan": neighbors.KNeighborsClassifier(
        3, algorithm="ball_tree", metric="manhattan"
    ),
    "radius neighbours": neighbors.RadiusNeighborsClassifier(5.0),
    "nearest centroid": neighbors.NearestCentroid(),
    "neighbourhood components": make_pipeline(
        neighbors.NeighborhoodComponentsAnalysis(2, max_iter=5, random_state=0),
        neighbors.KNeighborsClassifier(3),
    ),
    "Gaussian process": gaussian_process.GaussianProcessClassifier(
        ConstantKernel(1.0, "fixed") * RBF(1.0, "fixed")
    ),
    "Gaussian NB": naive_bayes.GaussianNB(),
    "Bernoulli NB": naive_bayes.BernoulliNB(),
    "multinomial NB of scaled rows": make_pipeline(
        preprocessing.MinMaxScaler(clip=True), naive_bayes.MultinomialNB()
    ),
    "linear discriminant": discriminant_analysis.LinearDiscriminantAnalysis(),
    "quadratic discriminant": discriminant_analysis.QuadraticDiscriminantAnalysis(reg_param=0.1),
    "neural network, adam": neural_network.MLPClassifier((4,), tol=1e9, random_state=0),
    "neural network, sgd": neural_network.MLPClassifier(
        (4,), solver="sgd", tol=1e9, random_state=0
    ),
    "calibrated, sigmoid": calibration.CalibratedClassifierCV(naive_bayes.GaussianNB(), cv=2),
    "calibrated, isotonic": calibration.CalibratedClassifierCV(
        naive_bayes.GaussianNB(), method="isotonic", cv=2
    ),
    "frozen": FrozenEstimator(STUMP),
    "grid search": model_selection.GridSearchCV(STUMP, {"max_depth": [1, 2]}, cv=2),
    "grid search with folds and a scorer": model_selection.GridSearchCV(
        STUMP,
        {"max_depth": [1, 2]},
        cv=model_selection.StratifiedKFold(2, shuffle=True, random_state=0),
        scoring=make_scorer(mean_squared_error, greater_is_better=False),
    ),
    "random search": model_selection.RandomizedSearchCV(
        STUMP, {"max_depth": [1, 2, 3]}, n_iter=2, cv=2, random_state=0
    ),
    "a tuned threshold": model_selection.TunedThresholdClassifierCV(LOGISTIC(), cv=2),
    "recursive elimination": feature_selection.RFE(LOGISTIC(), n_features_to_select=2),
    "k best": make_pipeline(feature_selection.SelectKBest(k=2), LOGISTIC()),
    "k best by information": make_pipeline(
        feature_selection.SelectKBest(feature_selection.mutual_info_classif, k=2), LOGISTIC()
    ),
    "from model": make_pipeline(feature_selection.SelectFromModel(STUMP), LOGISTIC()),
    "scaled, polynomial": make_pipeline(SCALED(), preprocessing.PolynomialFeatures(), LOGISTIC()),
    "quantiles and bins": make_pipeline(
        preprocessing.QuantileTransformer(n_quantiles=10, random_state=0),
        preprocessing.KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"),
        LOGISTIC(),
    ),
    "power and robust": make_pipeline(
        preprocessing.PowerTransformer(), preprocessing.RobustScaler(), LOGISTIC()
    ),
    "splines": make_pipeline(preprocessing.SplineTransformer(n_knots=3), LOGISTIC()),
    "a numpy function": make_pipeline(preprocessing.FunctionTransformer(np.tanh), LOGISTIC()),
    "PCA": make_pipeline(decomposition.PCA(2), LOGISTIC()),
    "truncated SVD": make_pipeline(decomposition.TruncatedSVD(2, random_state=0), LOGISTIC()),
    "kernel PCA": make_pipeline(decomposition.KernelPCA(2, kernel="rbf"), LOGISTIC()),
    "ICA": make_pipeline(decomposition.FastICA(2, random_state=0, tol=1.0), LOGISTIC()),
    "Nystroem": make_pipeline(
        kernel_approximation.Nystroem(n_components=5, random_state=0), LOGISTIC()
    ),
    "random projection": make_pipeline(
        random_projection.SparseRandomProjection(3, random_state=0), LOGISTIC()
    ),
    "a union": make_pipeline(
        FeatureUnion([("pca", decomposition.PCA(2)), ("scaled", SCALED())]), LOGISTIC()
    ),
    "xgboost in a pipeline": make_pipeline(SCALED(), XGBClassifier(n_estimators=3, n_jobs=1)),
    "lightgbm in a pipeline": make_pipeline(
        preprocessing.FunctionTransformer(), LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1)
    ),
    "most frequent": dummy.DummyClassifier(),
}

REGRESSORS: dict[str, Any] = {
    "least squares": linear_model.LinearRegression(),
    "ridge": linear_model.Ridge(),
    "lasso": linear_model.Lasso(0.1),
    "elastic net": linear_model.ElasticNet(0.1),
    "Bayesian ridge": linear_model.BayesianRidge(),
    "huber": linear_model.HuberRegressor(),
    "RANSAC": linear_model.RANSACRegressor(random_state=0),
    "Tweedie": linear_model.TweedieRegressor(power=0),
    "quantile": linear_model.QuantileRegressor(alpha=0.1),
    "SGD regressor": linear_model.SGDRegressor(random_state=0),
    "regression tree": tree.DecisionTreeRegressor(max_depth=3, random_state=0),
    "regression forest": ensemble.RandomForestRegressor(5, random_state=0),
    "boosting, huber": ensemble.GradientBoostingRegressor(
        loss="huber", n_estimators=3, random_state=0
    ),
    "histograms, quantile": ensemble.HistGradientBoostingRegressor(
        loss="quantile", quantile=0.5, max_iter=3, random_state=0
    ),
    "histograms, absolute": ensemble.HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=3, random_state=0
    ),
    "SVR": svm.SVR(),
    "neighbours, weighted": neighbors.KNeighborsRegressor(3, weights="distance"),
    "kernel ridge": kernel_ridge.KernelRidge(kernel="rbf"),
    "Gaussian process regressor": gaussian_process.GaussianProcessRegressor(
        RBF(1.0, "fixed") + WhiteKernel(1.0, "fixed"), random_state=0
    ),
    "neural network regressor": neural_network.MLPRegressor(
        hidden_layer_sizes=(4,), tol=1e9, random_state=0
    ),
    "partial least squares": cross_decomposition.PLSRegression(2),
    "a transformed target": compose.TransformedTargetRegressor(
        linear_model.Ridge(), func=np.arcsinh, inverse_func=np.sinh
    ),
    "voting regressor": ensemble.VotingRegressor(
        [("a", linear_model.Ridge()), ("b", tree.DecisionTreeRegressor(random_state=0))]
    ),
    "stacking regressor": ensemble.StackingRegressor([("a", linear_model.Ridge())], cv=2),
    "XGBRegressor": XGBRegressor(n_estimators=3, n_jobs=1),
    "LGBMRegressor": LGBMRegressor(n_estimators=3, n_jobs=1, verbose=-1),
}

MULTICLASS: dict[str, Any] = {
    "one against the rest": multiclass.OneVsRestClassifier(LOGISTIC()),
    "one against one": multiclass.OneVsOneClassifier(svm.LinearSVC(random_state=0)),
    "output code": multiclass.OutputCodeClassifier(LOGISTIC(), random_state=0),
    "forest of three classes": forest(),
    "histograms of three classes": ensemble.HistGradientBoostingClassifier(
        max_iter=2, random_state=0
    ),
}

UNSUPERVISED: dict[str, Any] = {
    "isolation forest": ensemble.IsolationForest(n_estimators=5, random_state=0),
    "local outlier factor": neighbors.LocalOutlierFactor(5, novelty=True),
    "one-class SVM": svm.OneClassSVM(),
    "k-means": cluster.KMeans(3, n_init=1, random_state=0),
    "k-means in batches": cluster.MiniBatchKMeans(3, n_init=1, random_state=0),
    "bisecting k-means": cluster.BisectingKMeans(3, random_state=0),
    "Birch": cluster.Birch(n_clusters=3),
    "mean shift": cluster.MeanShift(),
    "affinity propagation": cluster.AffinityPropagation(random_state=0, max_iter=500),
    "Gaussian mixture": mixture.GaussianMixture(2, random_state=0),
}


def saved_by(
    save: Callable[[Any, Any], object],
) -> Callable[[Any], bytes]:
    def saved(model: Any) -> bytes:
        file = io.BytesIO()
        save(model, file)
        return file.getvalue()

    return saved


WAYS: dict[str, Callable[[Any], bytes]] = {
    "joblib": saved_by(joblib.dump),
    "joblib, compressed": saved_by(lambda model, file: joblib.dump(model, file, compress=3)),
    **{f"pickle {n}": partial(pickle.dumps, protocol=n) for n in (0, 2, 4, 5)},
}


def check(model: Any, rows: Any, folder: Path) -> None:
    path = folder / "model.pkl"
    expected = model.predict(rows)
    for way, save in WAYS.items():
        path.write_bytes(save(model))
        loaded = load_pickle(path)
        assert type(loaded) is type(model), way
        np.testing.assert_array_equal(loaded.predict(rows), expected, err_msg=way)
        if hasattr(model, "predict_proba"):
            np.testing.assert_array_equal(
                loaded.predict_proba(rows), model.predict_proba(rows), err_msg=way
            )


@pytest.mark.parametrize("model", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_classifier(model: Any, tmp_path: Path) -> None:
    if isinstance(model, FrozenEstimator):
        model.estimator.fit(ROWS, LABELS)
    check(model.fit(ROWS, LABELS), NEW_ROWS, tmp_path)


@pytest.mark.parametrize("model", REGRESSORS.values(), ids=REGRESSORS)
def test_regressor(model: Any, tmp_path: Path) -> None:
    check(model.fit(ROWS, NUMBERS), NEW_ROWS, tmp_path)


@pytest.mark.parametrize("model", MULTICLASS.values(), ids=MULTICLASS)
def test_three_classes(model: Any, tmp_path: Path) -> None:
    check(model.fit(ROWS, THREE), NEW_ROWS, tmp_path)


@pytest.mark.parametrize("model", UNSUPERVISED.values(), ids=UNSUPERVISED)
def test_without_labels(model: Any, tmp_path: Path) -> None:
    check(model.fit(ROWS), NEW_ROWS, tmp_path)


@pytest.mark.parametrize("transformer", [columns, selected_columns])
def test_columns_of_a_data_frame(transformer: Callable[[], Any], tmp_path: Path) -> None:
    model = make_pipeline(transformer(), forest())
    check(model.fit(FRAME, WORDS), FRAME, tmp_path)


@pytest.mark.parametrize(
    "vectorizer",
    [
        TfidfVectorizer(ngram_range=(1, 2)),
        CountVectorizer(analyzer="char"),
        HashingVectorizer(n_features=64),
    ],
    ids=["tf-idf", "counts of characters", "hashes"],
)
def test_text(vectorizer: Any, tmp_path: Path) -> None:
    check(make_pipeline(vectorizer, LOGISTIC()).fit(TEXTS, WORDS), TEXTS, tmp_path)


def test_sparse_rows(tmp_path: Path) -> None:
    rows = scipy.sparse.csr_matrix(ROWS)
    check(neighbors.KNeighborsClassifier(3).fit(rows, LABELS), rows, tmp_path)


@pytest.mark.parametrize(
    "model",
    [
        multioutput.MultiOutputClassifier(LOGISTIC()),
        multioutput.ClassifierChain(LOGISTIC(), random_state=0),
    ],
    ids=["separate", "chained"],
)
def test_two_targets(model: Any, tmp_path: Path) -> None:
    check(model.fit(ROWS, np.column_stack([LABELS, LABELS[::-1]])), NEW_ROWS, tmp_path)


def test_isotonic_regression(tmp_path: Path) -> None:
    rows = ROWS[:, 0]
    check(isotonic.IsotonicRegression(out_of_bounds="clip").fit(rows, NUMBERS), rows, tmp_path)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3)),
        np.array(3.5),
        np.asfortranarray(ROWS),
        ROWS.astype(">f4"),
        np.array(["a", "bc", None], dtype=object),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2026-11-24"], dtype="M8[D]"),
        np.ma.masked_array([1, 2], mask=[True, False]),
    ],
    ids=[
        "no rows",
        "a scalar",
        "by columns",
        "big-endian",
        "objects",
        "records",
        "dates",
        "masked",
    ],
)
def test_array(array: Any, tmp_path: Path) -> None:
    path = tmp_path / "array.pkl"
    for way, save in WAYS.items():
        path.write_bytes(save({"here": [array, 1]}))
        loaded = load_pickle(path)["here"][0]
        np.testing.assert_array_equal(loaded, array, err_msg=way)
        assert loaded.shape == array.shape, way
