// Text that a model, a client or a server wrote, made safe to read: nothing in it hides, or turns what is read around.
// The same rule as fleet/observability/visible.py.
const CONTROLS =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff\u{e0000}-\u{e007f}]/gu;

export function visible(text) {
  return String(text ?? "")
    .replaceAll("\r\n", "\n")
    .replace(CONTROLS, (found) => {
      const code = found.codePointAt(0);
      return code <= 0x9f ? `\\x${code.toString(16).padStart(2, "0")}` : `‹U+${code.toString(16).toUpperCase().padStart(4, "0")}›`;
    });
}

const ESCAPES = /(?<code>(?<!`)(?<ticks>`+)(?!`).+?(?<!`)\k<ticks>(?!`))|\\\\|\\(?<sign>[_*#~<>])/gsu;

// What a model gave as a reason. It writes Markdown: its `\_` and `\*` mean `_` and `*`, but not in code.
// The same rule as fleet/cli/report/words.py.
export const meant = (text) => visible(String(text ?? "").replace(ESCAPES, (found, ...groups) => groups.at(-1).sign ?? found));
