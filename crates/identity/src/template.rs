//! The templates of trust domains and SPIFFE paths: `/workload/{{ .Workload }}`, `{{ label "team" }}`.

use zonal_model::Labels;

/// Why a template gives no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("`{template}`: `{{{{` is never closed")]
    Unclosed { template: String },
    #[error("`{template}`: unknown expression `{expression}`")]
    Unknown {
        template: String,
        expression: String,
    },
    #[error("`{template}`: label `{label}` is not set")]
    NoLabel { template: String, label: String },
}

/// Renders a template: `{{ .Name }}` takes a variable, `{{ label "key" }}` a label that must be set.
///
/// # Errors
/// When the template is malformed, or names a variable or label that is not there.
pub fn render_template(
    template: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    labels: &Labels,
) -> Result<String, TemplateError> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let Some((expression, tail)) = after.split_once("}}") else {
            return Err(TemplateError::Unclosed {
                template: template.to_owned(),
            });
        };
        let expression = expression
            .trim()
            .trim_start_matches('-')
            .trim_end_matches('-')
            .trim();
        text.push_str(&evaluate(template, expression, variable, labels)?);
        rest = tail;
    }
    text.push_str(rest);
    Ok(text)
}

fn evaluate(
    template: &str,
    expression: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    labels: &Labels,
) -> Result<String, TemplateError> {
    let unknown = || TemplateError::Unknown {
        template: template.to_owned(),
        expression: expression.to_owned(),
    };
    if let Some(name) = expression.strip_prefix('.') {
        return variable(name).ok_or_else(unknown);
    }
    let quoted = expression
        .strip_prefix("label")
        .map(str::trim)
        .ok_or_else(unknown)?;
    let key = quoted
        .strip_prefix(['"', '`'])
        .and_then(|key| key.strip_suffix(['"', '`']))
        .ok_or_else(unknown)?;
    labels
        .get(key)
        .cloned()
        .ok_or_else(|| TemplateError::NoLabel {
            template: template.to_owned(),
            label: key.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, want: Result<&str, &str>) {
        let labels = Labels::from([("team".to_owned(), "core".to_owned())]);
        let variable = |name: &str| (name == "Mesh").then(|| "default".to_owned());
        let got = render_template(template, &variable, &labels).map_err(|error| error.to_string());
        assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn templates_take_variables_and_labels() {
        check("{{ .Mesh }}.x.{{.Mesh}}", Ok("default.x.default"));
        check("/team/{{ label \"team\" }}", Ok("/team/core"));
        check("plain", Ok("plain"));
        check(
            "{{ .Zone }}",
            Err("`{{ .Zone }}`: unknown expression `.Zone`"),
        );
        check(
            "{{ label \"a\" }}",
            Err("`{{ label \"a\" }}`: label `a` is not set"),
        );
        check("{{ .Mesh", Err("`{{ .Mesh`: `{{` is never closed"));
        check(
            "{{ upper .Mesh }}",
            Err("`{{ upper .Mesh }}`: unknown expression `upper .Mesh`"),
        );
    }
}
