//! How much memory models may have: `--max-memory`, by default that of the machine.

use kinglet::Memory;

/// Sets the limit for all commands; without one, the machine's memory, as far as it is known.
pub(crate) fn limit(bytes: Option<u64>) {
    if let Some(bytes) = bytes.or_else(physical) {
        Memory::set_limit(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
}

/// Bytes of the machine's memory, where the system says so in a file.
fn physical() -> Option<u64> {
    of_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn of_meminfo(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A number of bytes: `1500000`, `64k`, `200M`, `1.5G`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1.0,
        "k" | "K" | "kB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err("a size is a number of bytes, or as in 64k, 200M, 1.5G, 2GiB".to_owned()),
    };
    match digits.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok((number * unit) as u64),
        _ => Err("a size begins with a number, as in 200M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let sizes = ["0", "1500", "64k", "200M", "1.5G", "2GiB", "3 "].map(|text| size(text).ok());
        let wanted = [0, 1500, 64_000, 200_000_000, 1_500_000_000, 2 << 30];
        assert_eq!(sizes[..6], wanted.map(Some));
        for text in ["", "G", "-1", "1T", "nanM", "infG", "1.2.3k", "\u{661}G"] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_machine_says_what_it_has() {
        let text = "MemTotal:       24600000 kB\nMemFree:  1 kB\n";
        assert_eq!(of_meminfo(text), Some(24_600_000 * 1024));
        assert_eq!(of_meminfo("MemTotal: many"), None);
    }
}
