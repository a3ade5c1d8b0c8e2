//! Conversions of names: from a field to its key segment and its change variant, and from an enum
//! variant to its text.

/// The values of `rename_all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
    Kebab,
    ScreamingKebab,
}

impl Case {
    /// All cases with their names in the attribute.
    pub(crate) const ALL: [(&str, Self); 8] = [
        ("lowercase", Self::Lower),
        ("UPPERCASE", Self::Upper),
        ("PascalCase", Self::Pascal),
        ("camelCase", Self::Camel),
        ("snake_case", Self::Snake),
        ("SCREAMING_SNAKE_CASE", Self::ScreamingSnake),
        ("kebab-case", Self::Kebab),
        ("SCREAMING-KEBAB-CASE", Self::ScreamingKebab),
    ];

    /// Converts a field name (`rate_limit`) to this case.
    pub(crate) fn of_field(self, name: &str) -> String {
        match self {
            Self::Lower | Self::Snake => name.to_owned(),
            Self::Upper | Self::ScreamingSnake => name.to_ascii_uppercase(),
            Self::Pascal => ascii_pascal(name),
            Self::Camel => lower_first(&ascii_pascal(name)),
            Self::Kebab => name.replace('_', "-"),
            Self::ScreamingKebab => name.to_ascii_uppercase().replace('_', "-"),
        }
    }

    /// Converts a variant name (`VeryBad`) to this case.
    pub(crate) fn of_variant(self, name: &str) -> String {
        match self {
            Self::Pascal => name.to_owned(),
            Self::Lower => name.to_ascii_lowercase(),
            Self::Upper => name.to_ascii_uppercase(),
            Self::Camel => lower_first(name),
            Self::Snake | Self::ScreamingSnake | Self::Kebab | Self::ScreamingKebab => self.of_field(&snake(name)),
        }
    }
}

/// Converts a field name, such as `rate_limit`, to the name of the field's change variant,
/// `RateLimit`. The result is an identifier and not a keyword.
pub(crate) fn variant_of_field(name: &str) -> String {
    let variant = pascal(name);
    match variant.as_str() {
        "Self" => "Self_".to_owned(),
        _ if variant.starts_with(|first: char| !first.is_ascii_digit()) => variant,
        _ => format!("_{variant}"),
    }
}

fn pascal(name: &str) -> String {
    name.split('_').map(upper_first).collect()
}

/// Converts a name to `PascalCase` like serde: letters outside of ASCII keep their case.
fn ascii_pascal(name: &str) -> String {
    let part = |part: &str| {
        let mut chars = part.chars();
        chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect::<String>()
    };
    name.split('_').map(part).collect()
}

fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (at, c) in name.char_indices() {
        if at > 0 && c.is_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn upper_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect()
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_converts_fields_and_variants() {
        let names: Vec<_> = Case::ALL.iter().map(|(_, case)| (case.of_field("rate_limit"), case.of_variant("VeryBad"))).collect();
        let expected = [
            ("rate_limit", "verybad"),
            ("RATE_LIMIT", "VERYBAD"),
            ("RateLimit", "VeryBad"),
            ("rateLimit", "veryBad"),
            ("rate_limit", "very_bad"),
            ("RATE_LIMIT", "VERY_BAD"),
            ("rate-limit", "very-bad"),
            ("RATE-LIMIT", "VERY-BAD"),
        ];
        assert_eq!(names, expected.map(|(field, variant)| (field.to_owned(), variant.to_owned())));
    }

    #[test]
    fn every_field_name_becomes_valid_variant() {
        for (field, variant) in
            [("a", "A"), ("a_b", "AB"), ("aB", "AB"), ("type", "Type"), ("self_", "Self_"), ("_1", "_1"), ("__", "_"), ("größe", "Größe")]
        {
            assert_eq!(variant_of_field(field), variant);
        }
    }
}
