//! The README's example does what it says, in the buffer that it has.

use kinglet::{Aligned, Model, Plan};
use kinglet_docs::firmware::{ARENA_BYTES, OPTIONS, tell};

#[test]
fn the_example_fits_its_buffer_and_tells_the_story() {
    let model = Model::open(&kinglet_fixtures::STORYTELLER.0).unwrap();
    assert_eq!(Plan::new(&model, OPTIONS).unwrap().bytes(), ARENA_BYTES);
    let mut arena = Box::new(Aligned([0; ARENA_BYTES]));
    let mut story = String::new();
    assert!(tell("Once upon a time", 24, &mut arena, |piece| story.push_str(piece)).is_ok());
    assert_eq!(story, "");
}
