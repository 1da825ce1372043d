//! Byte orders as tables name them: by letters, digits or words.

use super::types::tokens;
use crate::mapping::compiled::Order;
use crate::mapping::written::OrderWord;

/// A byte order as a table names it; `None` when it names none that is known.
pub fn order(text: &str) -> Option<Order> {
    let lower = text.trim().to_lowercase();
    if let Some(order) = order_word(&lower) {
        return Some(order);
    }
    let words: Vec<&str> = tokens(&lower);
    let has = |options: &[&str]| words.iter().any(|word| options.contains(word));
    // Which word comes first: `low word first`, `LSW first`, `high word - low word`.
    let word_order = has(&["word", "lsw", "msw", "register"]);
    match () {
        () if has(&["swap", "swapped"]) && has(&["byte", "bytes"]) && has(&["word", "words"]) => {
            Some(Order::Dcba)
        }
        () if has(&["swap", "swapped"]) && has(&["byte", "bytes"]) => Some(Order::Badc),
        () if has(&["swap", "swapped"]) => Some(Order::Cdab),
        () if word_order => words.iter().find_map(|word| match *word {
            "low" | "lo" | "lsw" | "least" | "little" => Some(Order::Cdab),
            "high" | "hi" | "msw" | "most" | "big" => Some(Order::Abcd),
            _ => None,
        }),
        () if has(&["big", "msb", "motorola", "network"]) => Some(Order::Abcd),
        () if has(&["little", "lsb", "intel"]) => Some(Order::Dcba),
        () => None,
    }
}

/// The letters of an order, and the single words that name one.
pub fn order_word(word: &str) -> Option<Order> {
    let letters = word.to_ascii_uppercase();
    if let Some((_, order)) = OrderWord::WORDS.iter().find(|(known, _)| *known == letters) {
        return Some(order.order());
    }
    match word {
        "be" | "big_endian" | "bigendian" => Some(Order::Abcd),
        "le" | "little_endian" | "littleendian" => Some(Order::Dcba),
        // Counting bytes, as Neuron and others do.
        "1234" | "12345678" => Some(Order::Abcd),
        "3412" | "78563412" => Some(Order::Cdab),
        "2143" | "21436587" => Some(Order::Badc),
        "4321" | "87654321" => Some(Order::Dcba),
        "swapped" | "swap" | "inverse" | "inverted" | "reversed" => Some(Order::Cdab),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_known_by_letters_digits_and_words() {
        for (text, expected) in [
            ("CDAB", Order::Cdab),
            ("big endian", Order::Abcd),
            ("Little-Endian", Order::Dcba),
            ("low word first", Order::Cdab),
            ("MSW first", Order::Abcd),
            ("byte swap", Order::Badc),
            ("3412", Order::Cdab),
            ("GHEFCDAB", Order::Cdab),
            ("word swapped", Order::Cdab),
            ("BA", Order::Badc),
        ] {
            assert_eq!(order(text), Some(expected), "{text}");
        }
        assert_eq!(order("middle"), None);
    }
}
