//! Costs against the places of an axis, with their quartiles, as an SVG that takes its colours from the page around it.

use plotters::prelude::*;

use super::super::night::plot::{COLOURS, LINE, TEXT};
use crate::bench::Spread;

/// A column's costs.
pub(super) struct Curve {
    /// The number of a place on the axis, and the cost there.
    pub(super) points: Vec<(usize, Spread)>,
    /// Which of the colours.
    pub(super) colour: usize,
}

const SIZE: (u32, u32) = (640, 280);

/// The curves over places of these names, in that unit. Places are as far from each other as words are.
pub(super) fn plot(curves: &[Curve], places: &[String], axis: &str, unit: &str) -> Result<String, String> {
    let mut svg = String::new();
    draw(curves, places, axis, unit, &mut svg).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw(
    curves: &[Curve],
    places: &[String],
    axis: &str,
    unit: &str,
    svg: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let spreads = || curves.iter().flat_map(|curve| &curve.points).map(|(_, spread)| spread);
    let high = spreads().map(|spread| spread.high).fold(f64::MIN_POSITIVE, f64::max);
    let last = places.len().saturating_sub(1) as f64;
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin_right(24)
        .margin_top(10)
        .x_label_area_size(48)
        .y_label_area_size(84)
        .build_cartesian_2d(-0.25..last + 0.25, 0.0..high * 1.06)?;
    let text = ("sans-serif", 18).into_font().color(&TEXT);
    let name = |place: &f64| {
        let is_whole = place.fract().abs() < 1e-6 && *place > -0.5;
        places.get(place.round() as usize).filter(|_| is_whole).cloned().unwrap_or_default()
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .label_style(text)
        .x_labels(4 * places.len())
        .y_labels(5)
        .x_desc(axis)
        .y_desc(unit)
        .x_label_formatter(&name)
        .y_label_formatter(&|cost| super::digits(*cost).trim_end_matches(".00").to_string())
        .draw()?;
    for (index, curve) in curves.iter().enumerate() {
        let style = COLOURS[curve.colour].stroke_width(2);
        // Beside each other, or one would hide the other's spread.
        let aside = (index as f64 - (curves.len() as f64 - 1.0) / 2.0) * 0.03;
        let at = |place: usize| place as f64 + aside;
        let middle = curve.points.iter().map(|(place, cost)| (at(*place), cost.median));
        chart.draw_series(LineSeries::new(middle.clone(), style))?;
        chart.draw_series(middle.map(|point| Circle::new(point, 3, COLOURS[curve.colour].filled())))?;
        let spread = |(place, cost): &(usize, Spread)| {
            PathElement::new(vec![(at(*place), cost.low), (at(*place), cost.high)], style)
        };
        chart.draw_series(curve.points.iter().map(spread))?;
    }
    area.present()?;
    drop(chart);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_of_any_kind_are_drawn() {
        let spread = |median: f64| Spread { low: median / 2.0, median, high: median * 2.0 };
        let places = ["1", "2", "10 <&>"].map(str::to_owned);
        for points in [vec![], vec![(0, spread(5.0))], vec![(0, spread(1e-9)), (2, spread(1e12))]] {
            let curves = [Curve { points, colour: 0 }];
            let svg = plot(&curves, &places, "tasks", "microseconds").expect("drawn");
            assert!(svg.starts_with("<svg") && svg.contains("tasks") && !svg.contains("<&>"), "{svg}");
        }
        assert!(plot(&[], &[], "", "").is_ok());
    }
}
