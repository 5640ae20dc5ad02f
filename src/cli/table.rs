//! Tables for people: columns as wide as their widest cell, two spaces apart.

use std::io::{self, Write};

/// Prints a header and rows. The last column is not padded.
///
/// # Errors
/// When `out` cannot be written.
pub fn print<const N: usize>(header: [&str; N], rows: &[[String; N]], out: &mut impl Write) -> io::Result<()> {
    let header = header.map(str::to_owned);
    let lines = || std::iter::once(&header).chain(rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| lines().map(|line| line[column].chars().count()).max().unwrap_or(0));
    for line in lines() {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let mut out = Vec::new();
        print(["A", "LONG"], &[["éé".into(), "x".into()], ["b".into(), "longer".into()]], &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A   LONG\néé  x\nb   longer\n");
    }
}
