"""How alike two pictures are."""

from scipy.ndimage import uniform_filter


def similarity(a, b):
    """Structural similarity (Wang et al. 2004): windows of 7, channels apart, uint8 [..., H, W, 3].

    Covariances are the samples'; the mean leaves out a margin of 3 pixels.
    """
    a, b = a.astype(float), b.astype(float)
    window = (1,) * (a.ndim - 3) + (7, 7, 1)

    def mean(x):
        return uniform_filter(x, window)

    unbiased = 49 / 48
    mean_a, mean_b = mean(a), mean(b)
    variances = unbiased * (mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2)
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    score /= (mean_a**2 + mean_b**2 + c1) * (variances + c2)
    return score[..., 3:-3, 3:-3, :].mean(axis=(-3, -2, -1))
