// File: nothing.cc
//
// The source of a library that is known by its name alone.
