//! The normal distribution, as far as planning needs it.

/// The share below `z`; Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.2.17 (error below 1e-7).
pub(super) fn share_below(z: f64) -> f64 {
    if !z.is_finite() {
        return if z > 0.0 { 1.0 } else { 0.0 };
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let sum = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530]
        .iter()
        .fold(0.0, |sum, c| t * (c + sum));
    let above = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum;
    if z > 0.0 { 1.0 - above } else { above }
}

/// The `z` below which the share `p` lies, for `p` from 0.5 on; Abramowitz and Stegun 26.2.23 (error below 5e-4).
pub(super) fn quantile_above_half(p: f64) -> f64 {
    let t = (-2.0 * (1.0 - p).clamp(1e-9, 0.5).ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    (t - above / below).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        for (z, p) in [(0.0, 0.5), (1.0, 0.841_345), (1.644_854, 0.95), (2.326_348, 0.99)] {
            assert!((share_below(z) - p).abs() < 1e-5 && (share_below(-z) - (1.0 - p)).abs() < 1e-5);
            assert!((quantile_above_half(p) - z).abs() < 1e-3, "{p}: {}", quantile_above_half(p));
        }
        assert_eq!((share_below(f64::INFINITY), share_below(f64::NEG_INFINITY)), (1.0, 0.0));
    }
}
