//! Charts as SVG: axes, bars, areas and lines over time, with a legend. No scripts, no fonts, nothing loaded from elsewhere.

use std::fmt::Write;

pub(super) const WIDTH: f64 = 960.0;
pub(super) const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 26.0;

/// Colors that differ for most eyes (Okabe and Ito, "Color universal design", 2008).
pub(super) const COLORS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"];

/// One chart; what is drawn first lies below.
#[derive(Debug)]
pub(super) struct Chart {
    body: String,
    /// Seconds at the right edge, and the value at the top.
    end_s: f64,
    most: f64,
    legend: f64,
}

/// Text as it may stand in SVG and HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The next number of the form 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= value - 1e-9);
    step.unwrap_or(10.0) * power
}

impl Chart {
    pub(super) fn new(title: &str, end_s: f64, most: f64) -> Chart {
        let (end_s, most) = (end_s.max(1.0), round_up(most));
        let mut chart = Chart { body: String::new(), end_s, most, legend: WIDTH - RIGHT };
        let _ =
            write!(chart.body, "<text x=\"{LEFT}\" y=\"16\" font-weight=\"bold\">{}</text>", escaped(title));
        chart.axes();
        chart
    }

    fn x(&self, at_s: f64) -> f64 {
        LEFT + (at_s / self.end_s).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (value / self.most).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn axes(&mut self) {
        for part in 0..=4 {
            let value = self.most * f64::from(part) / 4.0;
            let y = self.y(value);
            let _ = write!(
                self.body,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                number(value)
            );
        }
        let step = time_step(self.end_s);
        let mut at = 0.0;
        while at <= self.end_s {
            let x = self.x(at);
            let _ = write!(
                self.body,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - 8.0,
                clock(at)
            );
            at += step;
        }
    }

    /// An entry of the legend, from right to left.
    pub(super) fn named(&mut self, name: &str, color: &str) {
        let width = 7.0 * name.chars().count() as f64 + 24.0;
        self.legend -= width;
        let _ = write!(
            self.body,
            "<rect x=\"{:.1}\" y=\"8\" width=\"10\" height=\"10\" fill=\"{color}\"/><text x=\"{:.1}\" y=\"17\">{}</text>",
            self.legend,
            self.legend + 14.0,
            escaped(name)
        );
    }

    /// Values of spans of the same length, one after the other.
    pub(super) fn bars(&mut self, values: &[f64], color: &str) {
        let span = self.end_s / values.len().max(1) as f64;
        for (at, value) in values.iter().enumerate().filter(|(_, value)| **value > 0.0) {
            let (x, y) = (self.x(at as f64 * span), self.y(*value));
            let width = (self.x((at + 1) as f64 * span) - x - 0.3).max(0.5);
            let _ = write!(
                self.body,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{color}\"/>",
                HEIGHT - BOTTOM - y
            );
        }
    }

    /// The room between two courses over the same instants.
    pub(super) fn area(&mut self, times: &[f64], low: &[f64], high: &[f64], color: &str) {
        let mut points = String::new();
        for (at, value) in times.iter().zip(high) {
            let _ = write!(points, "{:.1},{:.1} ", self.x(*at), self.y(*value));
        }
        for (at, value) in times.iter().zip(low).rev() {
            let _ = write!(points, "{:.1},{:.1} ", self.x(*at), self.y(*value));
        }
        let _ = write!(self.body, "<polygon points=\"{}\" fill=\"{color}\"/>", points.trim_end());
    }

    pub(super) fn line(&mut self, times: &[f64], values: &[f64], color: &str) {
        let mut points = String::new();
        for (at, value) in times.iter().zip(values) {
            let _ = write!(points, "{:.1},{:.1} ", self.x(*at), self.y(*value));
        }
        let _ = write!(
            self.body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.3\"/>",
            points.trim_end()
        );
    }

    /// A level that something is measured against.
    pub(super) fn level(&mut self, value: f64, color: &str) {
        let y = self.y(value);
        let _ = write!(
            self.body,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{color}\" stroke-dasharray=\"4 3\"/>",
            WIDTH - RIGHT
        );
    }
}

/// Charts one below the other as one picture.
pub(super) fn picture(charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    );
    for (at, chart) in charts.iter().enumerate() {
        let _ = write!(svg, "\n<g transform=\"translate(0 {})\">{}</g>", HEIGHT * at as f64, chart.body);
    }
    svg.push_str("\n</svg>\n");
    svg
}

fn number(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Seconds between two marks of the time axis: at most twelve of them.
fn time_step(end_s: f64) -> f64 {
    const STEPS: [f64; 14] = [
        1.0, 5.0, 15.0, 60.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 28_800.0, 86_400.0,
        259_200.0, 604_800.0,
    ];
    STEPS.into_iter().find(|step| end_s / step <= 12.0).unwrap_or(604_800.0)
}

fn clock(at_s: f64) -> String {
    let at = at_s.round() as u64;
    let (days, hours, minutes, seconds) = (at / 86_400, at / 3_600 % 24, at / 60 % 60, at % 60);
    match (days, seconds) {
        (0, 0) => format!("{hours}:{minutes:02}"),
        (0, _) => format!("{hours}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}d {hours}:{minutes:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_where_they_belong() {
        let mut chart = Chart::new("a < b", 100.0, 8.0);
        chart.line(&[0.0, 100.0], &[0.0, 10.0], COLORS[0]);
        assert!(chart.body.contains("a &lt; b"), "{}", chart.body);
        assert!(chart.body.contains("points=\"56.0,194.0 948.0,34.0\""), "{}", chart.body);
        let svg = picture(&[chart]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    }

    #[test]
    fn marks_are_round() {
        assert_eq!([0.0, 0.3, 1.0, 7.0, 23.0].map(round_up), [1.0, 0.5, 1.0, 10.0, 50.0]);
        assert_eq!((time_step(3_600.0), time_step(86_400.0), time_step(60.0)), (300.0, 7_200.0, 5.0));
        assert_eq!([0.0, 61.0, 3_600.0, 90_000.0].map(clock), ["0:00", "0:01:01", "1:00", "1d 1:00"]);
    }
}
