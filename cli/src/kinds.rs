//! What people call a kind.

use zonal_model::{Kind, Scope};

use crate::failure::Failure;

/// Reads a kind by its REST path, its name in any case, or its short name in identifiers.
pub(crate) fn parse(text: &str) -> Result<Kind, Failure> {
    let wanted = text.to_lowercase();
    let by_name = || {
        Kind::ALL
            .iter()
            .copied()
            .find(|kind| kind.name().to_lowercase() == wanted)
    };
    Kind::by_path(&wanted)
        .or_else(by_name)
        .or_else(|| Kind::by_short(&wanted))
        .filter(|kind| !kind.descriptor().path.is_empty())
        .ok_or_else(|| unknown(text, &wanted))
}

fn unknown(text: &str, wanted: &str) -> Failure {
    let paths = || {
        Kind::ALL
            .iter()
            .map(|kind| kind.descriptor().path)
            .filter(|path| !path.is_empty())
    };
    let failure = Failure::new(format!("`{text}` is no type of resource"));
    let nearest = paths()
        .map(|path| {
            (
                distance(wanted, path).min(distance(&format!("{wanted}s"), path)),
                path,
            )
        })
        .min()
        .filter(|(distance, _)| distance * 3 <= wanted.len());
    match nearest {
        Some((_, path)) => failure.hint(format!("did you mean `{path}`?")),
        None => failure.hint(format!(
            "there are: {}",
            paths().collect::<Vec<_>>().join(", ")
        )),
    }
}

/// The number of insertions, removals and replacements between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, from) in a.chars().enumerate() {
        let mut next = vec![line + 1];
        for ((&above, &diagonal), to) in row.iter().skip(1).zip(&row).zip(&b) {
            let left = next.last().copied().unwrap_or_default();
            next.push(
                (above + 1)
                    .min(left + 1)
                    .min(diagonal + usize::from(from != *to)),
            );
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// The path of a collection, in a mesh where the kind lives in one, or of all meshes.
pub(crate) fn collection(kind: Kind, mesh: Option<&str>) -> Vec<String> {
    let path = kind.descriptor().path.to_owned();
    match (kind.descriptor().scope, mesh) {
        (Scope::Mesh, Some(mesh)) => vec!["meshes".to_owned(), mesh.to_owned(), path],
        (Scope::Mesh, None) | (Scope::Global, _) => vec![path],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Kind) {
        assert_eq!(parse(text), Ok(want), "{text}");
    }

    #[test]
    fn a_kind_has_many_names() {
        check("meshtimeouts", Kind::MeshTimeout);
        check("meshtimeout", Kind::MeshTimeout);
        check("MeshTimeout", Kind::MeshTimeout);
        check("mt", Kind::MeshTimeout);
        check("meshes", Kind::Mesh);
        check("dp", Kind::Dataplane);
        check("global-secrets", Kind::GlobalSecret);
    }

    #[test]
    fn an_unknown_kind_is_told_its_neighbour() {
        let failure = parse("meshtimout").unwrap_err();
        assert_eq!(
            failure.hint.as_deref(),
            Some("did you mean `meshtimeouts`?")
        );
        assert!(
            parse("pods")
                .unwrap_err()
                .hint
                .is_some_and(|hint| hint.starts_with("there are: "))
        );
        assert!(
            parse("config").is_err(),
            "kinds without a path cannot be asked for"
        );
    }
}
