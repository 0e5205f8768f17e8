// Builds the script of the page; its document and its style sheet stand beside it in ../static. Nothing comes from elsewhere.
import { build } from "esbuild";

await build({
  entryPoints: ["src/page.js"],
  outfile: process.argv[2] ?? "../static/page.js",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "eof",
  logLevel: "warning",
});
