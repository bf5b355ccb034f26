//! Curves over time, as an SVG that takes its colours from the page around it.

use plotters::prelude::*;

/// A curve.
pub(super) struct Curve {
    /// Time and value.
    pub(super) points: Vec<(f64, f64)>,
    /// Which of [`COLOURS`].
    pub(super) colour: usize,
    pub(super) is_thin: bool,
}

/// Light enough for a dark page, and dark enough for a light one.
pub(in super::super) const COLOURS: [RGBColor; 8] = [
    RGBColor(0x2f, 0x81, 0xf7),
    RGBColor(0xd2, 0x7d, 0x1f),
    RGBColor(0x2d, 0xa4, 0x4e),
    RGBColor(0xbf, 0x4b, 0x8a),
    RGBColor(0x8a, 0x63, 0xd2),
    RGBColor(0xcf, 0x3f, 0x3f),
    RGBColor(0x1b, 0x9a, 0xa5),
    RGBColor(0x8c, 0x7a, 0x30),
];
/// Stand for the page's own colours of text and of lines; its style says which they are.
pub(in super::super) const TEXT: RGBColor = RGBColor(1, 1, 1);
pub(in super::super) const LINE: RGBColor = RGBColor(2, 2, 2);
const SIZE: (u32, u32) = (640, 280);
/// The least height, so that no two marks beside it are the same.
const LEAST: f64 = 4.0;

/// The curves, over time in that unit.
pub(super) fn plot(curves: &[Curve], unit: &str) -> Result<String, String> {
    let mut svg = String::new();
    draw(curves, unit, &mut svg).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw(curves: &[Curve], unit: &str, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let last = points().map(|(time, _)| *time).fold(f64::MIN_POSITIVE, f64::max);
    let high = points().map(|(_, value)| *value).fold(0.0, f64::max);
    let lowest = points().map(|(_, value)| *value).fold(high, f64::min);
    // What changes by little would be a straight line far above nothing.
    let low = if lowest > high / 2.0 { lowest - (high - lowest).max(LEAST) / 2.0 } else { 0.0 };
    let (low, high) = (low.max(0.0).floor(), high.max(low + LEAST) + (high - low) * 0.06);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin_right(16)
        .margin_top(10)
        .x_label_area_size(48)
        .y_label_area_size(68)
        .build_cartesian_2d(0.0..last, low..high)?;
    let text = ("sans-serif", 18).into_font().color(&TEXT);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .label_style(text)
        .x_labels(8)
        .y_labels(5)
        .x_desc(unit)
        .x_label_formatter(&|time| short(*time))
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    for curve in curves {
        let style = COLOURS[curve.colour].stroke_width(if curve.is_thin { 1 } else { 2 });
        chart.draw_series(LineSeries::new(curve.points.iter().copied(), style))?;
    }
    area.present()?;
    drop(chart);
    Ok(())
}

/// A number without needless digits.
fn short(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_of_any_kind_are_drawn() {
        let curve = |points: &[(f64, f64)]| Curve { points: points.to_vec(), colour: 0, is_thin: false };
        for points in
            [&[][..], &[(0.0, 0.0)], &[(1.0, 5.0)], &[(1.0, 700.0), (2.0, 700.0)], &[(0.0, 1e12), (1e9, 0.0)]]
        {
            let svg = plot(&[curve(points)], "hours").expect("drawn");
            assert!(svg.starts_with("<svg") && svg.contains("hours"), "{svg}");
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([short(0.0), short(2.5), short(1400.0)], ["0", "2.5", "1400"]);
    }
}
