//! Plots as SVG text: bars in groups, lines on linear or logarithmic axes, stacked bars.
//!
//! Colours are classes (`s0` … `s7`, by the position of a series) that the page's style sheet defines for light and dark. Every mark
//! has a title, which browsers show under the pointer.

use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// Colours of the style sheet; series beyond that use them again.
pub const COLOURS: usize = 8;

pub struct Series {
    pub name: String,
    /// Of the style sheet; so that a forwarder has one colour in all plots.
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Logarithmic,
}

/// One axis: how numbers become places, and where it is labelled.
struct Axis {
    scale: Scale,
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.least) / (self.most - self.least),
            Scale::Logarithmic => (value / self.least).ln() / (self.most / self.least).ln(),
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = nice((self.most - self.least) / 5.0);
                let first = (self.least / step).ceil() as i64;
                (first..).map(|number| number as f64 * step).take_while(|tick| *tick <= self.most * 1.0001).collect()
            }
            Scale::Logarithmic => {
                let powers = self.least.log10().floor() as i32..=self.most.log10().ceil() as i32;
                let factors: &[f64] = if self.most / self.least > 200.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let all = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
                all.filter(|tick| *tick >= self.least * 0.999 && *tick <= self.most * 1.001).collect()
            }
        }
    }
}

/// A round number not below this.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.max(1e-12).log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * 0.999).unwrap_or(10.0);
    factor * power
}

/// 0.25, 12, 1.5k, 10M.
pub fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = match scaled.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{scaled:.0}"),
        size if size >= 10.0 => format!("{scaled:.1}"),
        _ => format!("{scaled:.2}"),
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn open(height: f64, label: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escape(label))
}

fn horizontal_grid(svg: &mut String, axis: &Axis, unit: &str) {
    for tick in axis.ticks() {
        let y = axis.place(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 7.0,
            y + 4.0,
            short(tick)
        );
    }
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let _ = write!(
        svg,
        "<text class=\"axis\" transform=\"translate(14 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape(unit)
    );
}

fn legend(series: &[(&str, usize)]) -> String {
    let entry = |(name, colour): &(&str, usize)| {
        format!("<span><i class=\"s{}\"></i>{}</span>", colour % COLOURS, escape(name))
    };
    format!("<div class=\"legend\">{}</div>", series.iter().map(entry).collect::<String>())
}

/// Bars side by side: one group a category, one bar a series. A value that is missing has no bar.
pub fn bars(label: &str, unit: &str, categories: &[String], series: &[(String, usize, Vec<Option<f64>>)]) -> String {
    let most =
        series.iter().flat_map(|(_, _, values)| values.iter().flatten()).fold(0.0f64, |most, value| most.max(*value));
    if most <= 0.0 || categories.is_empty() {
        return String::new();
    }
    let y = Axis { scale: Scale::Linear, least: 0.0, most: most * 1.12, from: HEIGHT - BOTTOM, to: TOP };
    let mut svg = open(HEIGHT, label);
    horizontal_grid(&mut svg, &y, unit);
    let group = (WIDTH - LEFT - RIGHT) / categories.len() as f64;
    let bar = (group * 0.72 / series.len() as f64).min(46.0);
    for (position, category) in categories.iter().enumerate() {
        let middle = LEFT + group * (position as f64 + 0.5);
        let start = middle - bar * series.len() as f64 / 2.0;
        for (number, (name, colour, values)) in series.iter().enumerate() {
            let Some(value) = values.get(position).copied().flatten() else { continue };
            let (x, top) = (start + bar * number as f64, y.place(value));
            let _ = write!(
                svg,
                "<rect class=\"s{}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\"><title>{}, {}: {value:.3} {}</title></rect><text class=\"value\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                colour % COLOURS,
                x + 1.0,
                bar - 2.0,
                (y.from - top).max(0.0),
                escape(name),
                escape(category),
                escape(unit),
                x + bar / 2.0,
                top - 4.0,
                short(value)
            );
        }
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM + 18.0,
            escape(category)
        );
    }
    svg.push_str("</svg>");
    let names: Vec<(&str, usize)> = series.iter().map(|(name, colour, _)| (name.as_str(), *colour)).collect();
    svg + &legend(&names)
}

/// How a horizontal number is written.
pub type Tick = fn(f64) -> String;

/// Lines over a numeric axis, with a mark at every point where there are few.
pub fn lines(
    label: &str,
    (x_name, x_scale, x_tick): (&str, Scale, Tick),
    (unit, y_scale): (&str, Scale),
    series: &[Series],
) -> String {
    let points: Vec<(f64, f64)> = series.iter().flat_map(|series| series.points.iter().copied()).collect();
    if points.is_empty() {
        return String::new();
    }
    let least = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).fold(f64::INFINITY, f64::min);
    let most = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
    let (mut x_least, mut x_most) = (least(|point| point.0), most(|point| point.0));
    if x_least == x_most {
        (x_least, x_most) = (x_least * 0.9, x_most * 1.1 + 1e-9);
    }
    let (y_least, y_most) = match y_scale {
        Scale::Linear => (0.0, (most(|point| point.1) * 1.12).max(1e-9)),
        Scale::Logarithmic => (least(|point| point.1) * 0.8, most(|point| point.1) * 1.25),
    };
    let x = Axis { scale: x_scale, least: x_least, most: x_most, from: LEFT + 6.0, to: WIDTH - RIGHT - 6.0 };
    let y = Axis { scale: y_scale, least: y_least, most: y_most, from: HEIGHT - BOTTOM, to: TOP };
    let mut svg = open(HEIGHT, label);
    horizontal_grid(&mut svg, &y, unit);
    for tick in x.ticks() {
        let place = x.place(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/><text class=\"tick\" x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 16.0,
            escape(&x_tick(tick))
        );
    }
    let _ = write!(
        svg,
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0,
        escape(x_name)
    );
    for series in series {
        let places: Vec<String> =
            series.points.iter().map(|point| format!("{:.1},{:.1}", x.place(point.0), y.place(point.1))).collect();
        let _ = write!(svg, "<polyline class=\"line s{}\" points=\"{}\"/>", series.colour % COLOURS, places.join(" "));
        for point in series.points.iter().filter(|_| series.points.len() <= 20) {
            let _ = write!(
                svg,
                "<circle class=\"s{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.4\"><title>{}, {}: {} {}</title></circle>",
                series.colour % COLOURS,
                x.place(point.0),
                y.place(point.1),
                escape(&series.name),
                escape(&x_tick(point.0)),
                short(point.1),
                escape(unit)
            );
        }
    }
    svg.push_str("</svg>");
    let names: Vec<(&str, usize)> = series.iter().map(|series| (series.name.as_str(), series.colour)).collect();
    svg + &legend(&names)
}

/// Rows of pieces that add up; the pieces' names are the series.
pub fn stacked(label: &str, unit: &str, names: &[String], rows: &[(String, Vec<f64>)]) -> String {
    const ROW: f64 = 34.0;
    const NAMES: f64 = 150.0;
    let most = rows.iter().map(|(_, pieces)| pieces.iter().sum::<f64>()).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let height = ROW * rows.len() as f64 + 12.0;
    let x = Axis { scale: Scale::Linear, least: 0.0, most: most * 1.12, from: NAMES, to: WIDTH - RIGHT };
    let mut svg = open(height, label);
    for (position, (row, pieces)) in rows.iter().enumerate() {
        let top = 6.0 + ROW * position as f64;
        let _ = write!(
            svg,
            "<text class=\"row\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            NAMES - 8.0,
            top + ROW / 2.0 + 2.0,
            escape(row)
        );
        let mut sum = 0.0;
        for (number, piece) in pieces.iter().enumerate() {
            let (from, to) = (x.place(sum), x.place(sum + piece));
            sum += piece;
            let _ = write!(
                svg,
                "<rect class=\"s{}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}: {} {}</title></rect>",
                number % COLOURS,
                top + 3.0,
                (to - from).max(0.0),
                ROW - 10.0,
                escape(names.get(number).map_or("", String::as_str)),
                short(*piece),
                escape(unit)
            );
        }
        let _ = write!(
            svg,
            "<text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x.place(sum) + 6.0,
            top + ROW / 2.0 + 2.0,
            short(sum)
        );
    }
    svg.push_str("</svg>");
    let names: Vec<(&str, usize)> = names.iter().enumerate().map(|(number, name)| (name.as_str(), number)).collect();
    svg + &legend(&names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases =
            [(0.0, "0"), (0.25, "0.25"), (2.5, "2.5"), (12.0, "12"), (1500.0, "1.5k"), (10_000.0, "10k"), (1e6, "1M")];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn ticks_are_round_and_within() {
        let axis = Axis { scale: Scale::Linear, least: 0.0, most: 1.1, from: 0.0, to: 1.0 };
        assert_eq!(axis.ticks().len(), 5);
        let axis = Axis { scale: Scale::Logarithmic, least: 1.0, most: 1000.0, from: 0.0, to: 1.0 };
        assert_eq!(axis.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        assert!((axis.place(10.0) - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn text_from_elsewhere_is_no_markup() {
        let svg = bars("<x>", "a&b", &["<c>".to_owned()], &[("\"n\"".to_owned(), 0, vec![Some(1.0)])]);
        assert!(!svg.contains("<x>") && !svg.contains("<c>") && svg.contains("a&amp;b"), "{svg}");
    }

    #[test]
    fn nothing_to_show_is_nothing() {
        assert_eq!(bars("", "", &[], &[]), "");
        assert_eq!(stacked("", "", &[], &[]), "");
        let axis: (&str, Scale, Tick) = ("", Scale::Linear, short);
        assert_eq!(lines("", axis, ("", Scale::Linear), &[]), "");
    }
}
