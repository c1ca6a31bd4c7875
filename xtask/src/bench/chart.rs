//! Charts as SVG: a few panels below each other that share the time axis.

use std::fmt::Write;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 60.0;
const GAP: f64 = 34.0;

/// How a line looks: colour, and whether it is dashed.
pub(crate) type Look = (&'static str, bool);

/// One line of a panel, over time in seconds.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) look: Look,
    pub(crate) points: Vec<(f64, f64)>,
    /// The value holds until the next point.
    pub(crate) steps: bool,
}

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
}

/// The panels as one document.
pub(crate) fn svg(title: &str, panels: &[Panel]) -> String {
    let all = || panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let end = all().map(|point| point.0).fold(1.0, f64::max);
    let height = 40.0 + panels.len() as f64 * (HEIGHT + GAP) + 20.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(title)
    );
    for (at, panel) in panels.iter().enumerate() {
        draw(panel, 40.0 + at as f64 * (HEIGHT + GAP), end, &mut text);
    }
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">seconds</text>",
        WIDTH - 10.0,
        height - 6.0
    );
    text.push_str("</svg>\n");
    text
}

fn draw(panel: &Panel, top: f64, end: f64, text: &mut String) {
    let most =
        panel.lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(0.0, f64::max).max(1e-9);
    let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - 10.0);
    let y = |value: f64| top + 14.0 + (HEIGHT - 14.0) * (1.0 - value / most);
    let bottom = y(0.0);
    let _ = writeln!(
        text,
        "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{}</text>",
        top + 4.0,
        escaped(&panel.title)
    );
    let _ = writeln!(
        text,
        "<path d=\"M{LEFT} {} V{bottom} H{}\" fill=\"none\" stroke=\"#999\"/>",
        top + 10.0,
        WIDTH - 10.0
    );
    for share in [0.0, 0.5, 1.0] {
        let value = most * share;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 4.0,
            y(value) + 4.0,
            if most >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
        );
    }
    for tenth in 0..=10 {
        let at = end * f64::from(tenth) / 10.0;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{at:.0}</text>",
            x(at),
            bottom + 12.0
        );
    }
    let mut right = LEFT + 260.0;
    for line in &panel.lines {
        let (colour, dashed) = line.look;
        let dash = if dashed { " stroke-dasharray=\"5 3\"" } else { "" };
        let mut path = String::new();
        for (at, (seconds, value)) in line.points.iter().enumerate() {
            let (px, py) = (x(*seconds), y(*value));
            let _ = match (at, line.steps) {
                (0, _) => write!(path, "M{px:.1} {py:.1}"),
                (_, true) => write!(path, " H{px:.1} V{py:.1}"),
                (_, false) => write!(path, " L{px:.1} {py:.1}"),
            };
        }
        let _ = writeln!(text, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\"{dash}/>");
        let _ = writeln!(
            text,
            "<text x=\"{right}\" y=\"{}\" fill=\"{colour}\">{}{}</text>",
            top + 4.0,
            if dashed { "- - " } else { "— " },
            escaped(&line.name)
        );
        right += 40.0 + 6.5 * line.name.len() as f64;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
