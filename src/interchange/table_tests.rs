use super::*;
use crate::config::load_profile_text;
use crate::model::diagnostic::Severity;
use proptest::prelude::*;

fn options() -> Options {
    Options { profile: "test/device".into(), file: "t.csv".into(), ..Options::default() }
}

fn imported(text: &str, options: &Options) -> Imported {
    let imported = import(text.as_bytes(), options).unwrap();
    if imported.points > 0 {
        let loaded = load_profile_text("t", &imported.yaml);
        assert!(loaded.map.is_some(), "{}\n{:?}", imported.yaml, loaded.diagnostics);
    }
    imported
}

/// The points' lines, with single blanks.
fn points(imported: &Imported) -> Vec<String> {
    let (_, points) = imported.yaml.split_once("points:\n").unwrap_or_default();
    points.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn notes(imported: &Imported) -> Vec<String> {
    imported.notes.iter().map(|note| note.show("t").to_string()).collect()
}

#[test]
fn a_german_vendor_table_becomes_a_profile() {
    let text = "\u{FEFF}Zähler X100;;;;;;\r\n\r\nRegister;Bezeichnung;Datentyp;Faktor;Einheit;R/W;Bemerkung\r\n\
        Messwerte;;;;;;\r\n40001;Spannung L1-N;UINT;0,1;V;R;\"Effektivwert,\r\nüber 200 ms\"\r\n\
        40002;Wirkleistung;DINT;0,01;kW;R;\r\n40004;Sollwert;INT;1;°C;R/W;\r\n40005;Kaputt;BANANE;1;V;R;\r\n;nur ein Name;INT;;;;\r\n";
    let imported = imported(text, &options());
    assert_eq!(
        points(&imported),
        [
            "# Messwerte",
            "spannung_l1_n: {holding: 0, type: uint16, scale: 0.1, unit: V, desc: 'Effektivwert, über 200 ms'}",
            "wirkleistung: {holding: 1, type: int32, scale: 0.01, unit: kW}",
            "sollwert: {holding: 3, type: int16, unit: °C, access: rw}",
        ]
    );
    assert_eq!((imported.points, imported.left_out), (3, 2));
    let notes = notes(&imported);
    assert!(notes[0].contains("column 'Register': these are read as paper references"), "{notes:?}");
    assert!(notes[1].starts_with("t:9: error: column 'Datentyp': unknown type 'BANANE'"), "{notes:?}");
    assert!(notes[2].starts_with("t:10: error: column 'Register': no address"), "{notes:?}");
}

#[test]
fn what_most_rows_share_stands_at_the_top() {
    let text = "address_zero_based,type,word_order,invalid,name\n0,int32,CDAB,0x7FFFFFFF,a\n2,int32,CDAB,0x7FFFFFFF,b\n4,int32,ABCD,,c\n6,int16,AB,,d\n";
    let options = Options { table: Some(Table::Input), ..options() };
    let imported = imported(text, &options);
    assert!(
        imported.yaml.contains("order: CDAB ") && imported.yaml.contains("invalid: {int32: 0x7FFFFFFF}"),
        "{}",
        imported.yaml
    );
    assert_eq!(points(&imported)[2], "c: {input: 4, type: int32, order: ABCD, invalid: none}");
    assert_eq!(points(&imported)[3], "d: {input: 6, type: int16}");
    assert_eq!(imported.notes, []);
}

#[test]
fn scale_factors_are_points() {
    let text = "address_zero_based,type,scale,name\n10,int16,sf:W_SF,W\n11,int16,1,W_SF\n12,uint16,V_SF,V\n13,int16,,V_SF\n14,int16,sf:none,X\n";
    let imported = imported(text, &options());
    assert_eq!(points(&imported)[0], "W: {holding: 10, type: int16, scale_from: W_SF}");
    assert_eq!(points(&imported)[2], "V: {holding: 12, type: uint16, scale_from: V_SF}");
    assert_eq!((imported.points, imported.left_out), (4, 1));
}

#[test]
fn the_base_says_what_numbers_count() {
    let text = "Address,Function code,Type,Name\n1,4,U16,a\n40001,03/06,U16,b\n";
    let count_from = |base| points(&imported(text, &Options { base, ..options() })).join(" ");
    assert_eq!(
        count_from(Some(0)),
        "a: {input: 1, type: uint16} b: {holding: 40001, type: uint16, access: rw}"
    );
    let one = imported(text, &Options { base: Some(1), ..options() });
    assert!(one.yaml.contains("address_base: 1 "), "{}", one.yaml);
    assert_eq!(points(&one)[1], "b: {holding: 40001, type: uint16, access: rw}");
    let map = load_profile_text("t", &one.yaml).map.unwrap();
    let crate::model::place::Place::Run { address, .. } = map.readings[1].place else { panic!() };
    assert_eq!(address, 40_000);
}

#[test]
fn paper_references_need_no_base_and_contradictions_are_errors() {
    let text =
        "Register,Type,Name,Table\n400001,UINT,a,\n300010,REAL,b,\n00005,BOOL,c,\n100003,BOOL,d,coil\n";
    let found = imported(text, &options());
    assert_eq!(
        points(&found),
        ["a: {holding: 0, type: uint16}", "b: {input: 9, type: float32}", "c: {coil: 4}"]
    );
    assert!(
        notes(&found)
            .iter()
            .any(|note| note.contains("100003 is the address of a discrete, and the row says coil"))
    );
}

#[test]
fn hexadecimal_ranges_bits_and_bytes_are_read() {
    let text = "Address (hex);Length (bytes);Format;Parameter\n9C40;4;unsigned;a\n9C42-9C43;;float;b\n1000;20;ASCII;c\n10.3;;bool;d\n";
    assert_eq!(
        points(&imported(text, &options())),
        [
            "a: {holding: 40000, type: uint32}",
            "b: {holding: 40002, type: float32}",
            "c: {holding: 4096, type: string, length: 10}",
            "d: {holding: 16, bit: 3}",
        ]
    );
}

#[test]
fn second_registers_headings_and_repeated_titles_are_no_points() {
    let text = "Reg,Name,Type\nVoltages,,\n0,U1,float\n1,,\n2,U2,float\nReg,Name,Type\n4,I,float\n";
    let found = imported(text, &options());
    assert_eq!((found.points, found.left_out), (3, 1));
    assert!(notes(&found).iter().any(|note| note.contains("t:4: warning: has neither name nor type")));
}

#[test]
fn names_and_places_that_are_there_twice_are_noted() {
    let found = imported("address_zero_based,type,name\n0,int16,a\n1,int16,a\n1,uint16,b\n", &options());
    let text = notes(&found).join("\n");
    assert!(text.contains("the name 'a' is taken by line 2: called 'a_2'"), "{text}");
    assert!(text.contains("'b' reads the same place as 'a_2' of line 3"), "{text}");
}

#[test]
fn opc_ua_tables_become_nodes() {
    let text = "table,address_zero_based,count,type,name,unit\nopcua,ns=4;s=|var|PLC.speed,1,Float,speed,rpm\nopcua,i=2255,1,String[],spaces,\n";
    let found = imported(text, &options());
    assert_eq!(points(&found)[0], "speed: {node: 'ns=4;s=|var|PLC.speed', type: float32, unit: rpm}");
    assert!(found.left_out == 1 && notes(&found)[0].contains("String[] is an array"));
}

#[test]
fn a_gain_may_be_a_divisor() {
    let text = "Address,Gain,Type,Name\n0,10,U16,a\n2,3,U16,b\n";
    let found = imported(text, &options());
    assert!(notes(&found).iter().any(|note| note.contains("--map divisor='Gain'")));
    let divided = imported(text, &Options { map: vec![(Column::Divisor, "Gain".into())], ..options() });
    assert_eq!(points(&divided), ["a: {holding: 0, type: uint16, scale: 0.1}"]);
    assert_eq!(divided.left_out, 1);
}

#[test]
fn what_the_checker_refuses_is_left_out_with_its_row() {
    let text = "address_zero_based,type,scale,name,invalid\n65535,int32,,a,\n0,string(4),sf:s,b,\n4,string(4),,s,\n8,int16,sf:s,c,\n9,int16,,d,0x12345\n10,int16,,e,\n";
    let found = imported(text, &options());
    assert_eq!(found.points + found.left_out, 6, "{:?}", notes(&found));
    let errors = found.notes.iter().filter(|note| note.severity == Severity::Error);
    assert_eq!(errors.count(), found.left_out);
    assert!(
        notes(&found)
            .iter()
            .any(|note| note.starts_with("t:2: error") && note.contains("reach beyond the last"))
    );
}

#[test]
fn a_table_that_is_too_large_for_a_profile_says_so() {
    let mut text = String::from("table,address_zero_based,type,name,scale,unit,description\n");
    for row in 0..60_000 {
        text += &format!("holding,{row},int16,p,0.1,V,d\n");
    }
    let found = import(text.as_bytes(), &options()).unwrap();
    assert_eq!((found.points, found.left_out), (0, 60_000));
    assert!(
        found.notes[0].line.is_none() && found.notes[0].severity == Severity::Error,
        "{:?}",
        found.notes[0]
    );
}

#[test]
fn a_table_whose_rows_are_all_wrong_gives_no_profile() {
    let found = imported("address_zero_based,type,name\nx,int16,a\n", &options());
    assert_eq!((found.points, found.left_out, found.yaml.as_str()), (0, 1, ""));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), base in prop::option::of(0u16..2)) {
        let _ = import(&bytes, &Options { base, ..options() });
    }

    #[test]
    fn whatever_is_imported_passes_check_and_every_row_is_accounted_for(
        rows in prop::collection::vec(
            ("[0-9]{1,6}|0x[0-9A-F]{1,5}|[34]x[0-9]{1,5}|[0-9]{1,4}-[0-9]{1,4}|[0-9]{1,3}\\.[0-9]{1,2}|\\PC{0,6}",
             "holding|input|coil|discrete|hr|[a-z]{0,3}",
             "[0-9]?",
             "(U|S|INT|UINT|FLOAT|STRING|BCD|datetime )(8|16|32|64|\\(7\\)|fields|local)?|\\PC{0,8}",
             "|ABCD|CDAB|BA|little endian|[A-D]{4}",
             "[-0-9,./x^]{0,6}|sf:[a-c]",
             "[a-c]|\\PC{0,20}",
             "|r|rw|w|RO|x"),
            0..12),
        base in prop::option::of(0u16..2),
    ) {
        let mut text = String::from("Address;Table;Count;Type;Order;Scale;Name;Access\n");
        for (address, table, count, kind, order, scale, name, access) in &rows {
            let cells = [address, table, count, kind, order, scale, name, access];
            let quoted: Vec<String> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
            text += &(quoted.join(";") + "\n");
        }
        let Ok(found) = import(text.as_bytes(), &Options { base, ..options() }) else { return Ok(()) };
        if found.points > 0 {
            let loaded = load_profile_text("t", &found.yaml);
            let errors: Vec<_> = loaded.diagnostics.iter().filter(|d| d.severity == Severity::Error).collect();
            prop_assert!(errors.is_empty(), "{}\n{:?}", found.yaml, errors);
        }
        // Headings, repeated titles and empty rows are no points.
        prop_assert!(found.points + found.left_out <= rows.len());
        prop_assert!(found.left_out <= found.notes.len());
    }
}
