import { h } from "preact";
import htm from "htm";

// Not kept: what is drawn once and kept holds on to the whole tree that it was drawn in.
export const html = htm.bind(function (...drawn) {
  this[0] = 3;
  return h(...drawn);
});
