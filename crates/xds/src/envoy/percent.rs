//! Shares of a whole.

use kds_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use kds_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};

/// The whole part of a number; negative and too large ones are cut to the range.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates for floats, which is what is wanted"
)]
pub(crate) fn whole(number: f64) -> u32 {
    number as u32
}

/// A percentage given as decimal text, in the coarsest unit that can say it.
pub(crate) fn fraction(percent: f64) -> FractionalPercent {
    let hundredths = percent * 100.0;
    let (numerator, denominator) = if percent.fract() == 0.0 {
        (whole(percent), DenominatorType::Hundred)
    } else if hundredths.fract() == 0.0 {
        (whole(hundredths), DenominatorType::TenThousand)
    } else {
        (
            whole((percent * 10_000.0).round()),
            DenominatorType::Million,
        )
    };
    FractionalPercent {
        numerator,
        denominator: denominator.into(),
    }
}

/// `part` of `total` as a fraction: exact where one of the units allows it.
pub(crate) fn share(part: u32, total: u32) -> FractionalPercent {
    let (part, total) = (u64::from(part), u64::from(total.max(1)));
    for (unit, denominator) in [
        (100, DenominatorType::Hundred),
        (10_000, DenominatorType::TenThousand),
        (1_000_000, DenominatorType::Million),
    ] {
        if (part * unit).is_multiple_of(total) {
            let numerator = u32::try_from(part * unit / total).unwrap_or(u32::MAX);
            return FractionalPercent {
                numerator,
                denominator: denominator.into(),
            };
        }
    }
    // No unit divides evenly: the nearest millionth.
    let numerator = u32::try_from((part * 1_000_000 + total / 2) / total).unwrap_or(u32::MAX);
    FractionalPercent {
        numerator,
        denominator: DenominatorType::Million.into(),
    }
}

pub(crate) fn runtime(fraction: FractionalPercent) -> RuntimeFractionalPercent {
    RuntimeFractionalPercent {
        default_value: Some(fraction),
        ..RuntimeFractionalPercent::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_use_the_coarsest_exact_unit() {
        #[track_caller]
        fn check(percent: f64, numerator: u32, denominator: DenominatorType) {
            let want = FractionalPercent {
                numerator,
                denominator: denominator.into(),
            };
            assert_eq!(fraction(percent), want);
        }
        check(50.0, 50, DenominatorType::Hundred);
        check(0.5, 50, DenominatorType::TenThousand);
        check(0.001, 10, DenominatorType::Million);
    }

    #[test]
    fn shares_are_exact_where_they_can_be() {
        #[track_caller]
        fn check(part: u32, total: u32, numerator: u32, denominator: DenominatorType) {
            let want = FractionalPercent {
                numerator,
                denominator: denominator.into(),
            };
            assert_eq!(share(part, total), want);
        }
        check(1, 2, 50, DenominatorType::Hundred);
        check(1, 8, 1250, DenominatorType::TenThousand);
        check(1, 3, 333_333, DenominatorType::Million);
        check(0, 0, 0, DenominatorType::Hundred);
    }
}
