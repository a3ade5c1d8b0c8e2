//! Names made of names: a field's key segment and its variant, a variant's text.

/// What `rename_all` can be.
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
    /// With the names that people give them.
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

    /// A field's name (`rate_limit`) in this case.
    pub(crate) fn of_field(self, name: &str) -> String {
        match self {
            Self::Lower | Self::Snake => name.to_owned(),
            Self::Upper | Self::ScreamingSnake => name.to_ascii_uppercase(),
            Self::Pascal => pascal(name),
            Self::Camel => lower_first(&pascal(name)),
            Self::Kebab => name.replace('_', "-"),
            Self::ScreamingKebab => name.to_ascii_uppercase().replace('_', "-"),
        }
    }

    /// A variant's name (`VeryBad`) in this case.
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

/// `rate_limit` as `RateLimit`: the variant that stands for a field. It is an identifier and no keyword.
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
    chars.next().into_iter().flat_map(char::to_lowercase).chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_variants_in_every_case() {
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
    fn a_variant_is_an_identifier() {
        for (field, variant) in
            [("a", "A"), ("a_b", "AB"), ("aB", "AB"), ("type", "Type"), ("self_", "Self_"), ("_1", "_1"), ("__", "_"), ("größe", "Größe")]
        {
            assert_eq!(variant_of_field(field), variant);
        }
    }
}
