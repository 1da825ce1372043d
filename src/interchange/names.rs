//! Names of points from whatever a table calls them: snake_case, ASCII, unique.

use std::collections::HashMap;

use crate::document::types::MAX_NAME;

/// `Spannung L1-N` → `spannung_l1_n`, `ActivePower` → `active_power`, `cos φ` → `cos_phi`; empty when nothing is left.
pub fn slug(text: &str) -> String {
    let mut slug = String::new();
    let mut lower_run = 0;
    for c in text.chars() {
        // `ActivePower` has two words, `kWh` has one.
        if c.is_uppercase() && lower_run >= 2 {
            slug.push('_');
        }
        lower_run = if c.is_lowercase() { lower_run + 1 } else { 0 };
        match ascii(c) {
            Some(letters) if slug.ends_with('_') => slug.push_str(letters.trim_start_matches('_')),
            Some(letters) => slug.push_str(letters),
            None if c.is_ascii_alphanumeric() => slug.push(c.to_ascii_lowercase()),
            None if matches!(c, '\'' | '’') => {}
            None if !slug.ends_with('_') => slug.push('_'),
            None => {}
        }
    }
    shorten(slug.trim_matches('_'))
}

/// At most as long as a name may be, cut between words.
fn shorten(slug: &str) -> String {
    if slug.len() <= MAX_NAME {
        return slug.to_owned();
    }
    let cut = &slug[..MAX_NAME];
    cut.rfind('_').filter(|at| *at > MAX_NAME / 2).map_or(cut, |at| &cut[..at]).to_owned()
}

/// Letters and signs that have a usual ASCII spelling.
fn ascii(c: char) -> Option<&'static str> {
    const SPELLINGS: [(&str, &str); 40] = [
        ("äÄæÆ", "ae"),
        ("öÖœŒ", "oe"),
        ("üÜ", "ue"),
        ("ßẞ", "ss"),
        ("àáâãåāăąÀÁÂÃÅĀĂĄ", "a"),
        ("çćčÇĆČ", "c"),
        ("ďđĎĐ", "d"),
        ("èéêëēęěÈÉÊËĒĘĚ", "e"),
        ("ğĞ", "g"),
        ("ìíîïīıÌÍÎÏĪİ", "i"),
        ("łŁ", "l"),
        ("ñńňÑŃŇ", "n"),
        ("òóôõøōőÒÓÔÕØŌŐ", "o"),
        ("řŘ", "r"),
        ("śšşŚŠŞ", "s"),
        ("ťţŤŢ", "t"),
        ("ùúûūůűÙÚÛŪŮŰ", "u"),
        ("ýÿÝŸ", "y"),
        ("źžżŹŽŻ", "z"),
        ("αΑ", "alpha"),
        ("βΒ", "beta"),
        ("γΓ", "gamma"),
        ("δΔ", "delta"),
        ("ηΗ", "eta"),
        ("θϑΘ", "theta"),
        ("λΛ", "lambda"),
        ("µμ", "u"),
        ("πΠ", "pi"),
        ("ρΡ", "rho"),
        ("σΣ∑", "sum"),
        ("τΤ", "tau"),
        ("φϕΦ", "phi"),
        ("ωΩΩ", "ohm"),
        ("²", "2"),
        ("³", "3"),
        ("₁¹", "1"),
        ("₂", "2"),
        ("₃", "3"),
        ("%", "_percent"),
        ("&", "_and_"),
    ];
    SPELLINGS.iter().find(|(letters, _)| letters.contains(c)).map(|(_, spelling)| *spelling)
}

/// Names that are taken, each with the number that the next one alike is tried with.
#[derive(Clone, Debug, Default)]
pub struct Taken(HashMap<String, usize>);

impl Taken {
    /// The name itself, or with the first number behind it that is free (`voltage_2`).
    pub fn unique(&mut self, name: &str) -> String {
        let mut number = *self.0.entry(name.to_owned()).and_modify(|number| *number += 1).or_insert(1);
        let mut unique = name.to_owned();
        while number > 1 && self.0.contains_key(&unique) {
            let suffix = format!("_{number}");
            let end = name.char_indices().nth(MAX_NAME - suffix.len()).map_or(name.len(), |(at, _)| at);
            unique = format!("{}{suffix}", &name[..end]);
            number += 1;
        }
        self.0.entry(unique.clone()).or_insert(1);
        unique
    }
}

/// Is it a name as it is written?
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    !text.is_empty() && text.chars().count() <= MAX_NAME && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_snake_case_in_ascii() {
        for (text, expected) in [
            ("Spannung L1-N", "spannung_l1_n"),
            ("ActivePower", "active_power"),
            ("Energy (kWh)", "energy_kwh"),
            ("cos φ", "cos_phi"),
            ("Außentemperatur °C", "aussentemperatur_c"),
            ("Füllstand [%]", "fuellstand_percent"),
            ("totalPF", "total_pf"),
            ("U_L1", "u_l1"),
            ("  --  ", ""),
            ("Phase 1's current", "phase_1s_current"),
            ("Σ P", "sum_p"),
        ] {
            assert_eq!(slug(text), expected, "{text}");
        }
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let mut taken = Taken::default();
        let long = "x".repeat(MAX_NAME);
        let names = ["a", "a", "a_2", "a", &long, &long].map(|name| taken.unique(name));
        assert_eq!(names[..4], ["a", "a_2", "a_2_2", "a_3"]);
        assert_eq!(names[5].len(), MAX_NAME);
    }

    proptest! {
        #[test]
        fn whatever_a_table_says_becomes_a_name_or_nothing(text in any::<String>(), other in "[A-Za-zäß_ .-]{0,200}") {
            for text in [text, other] {
                let slug = slug(&text);
                prop_assert!(slug.is_empty() || is_name(&slug) && slug.is_ascii(), "{slug}");
                let mut taken = Taken::default();
                let all = [&slug, &slug, &slug].map(|name| taken.unique(name));
                prop_assert!(all[0] != all[1] && all[1] != all[2]);
            }
        }
    }
}
