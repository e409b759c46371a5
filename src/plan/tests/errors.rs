//! What must be refused, with the sentence.
