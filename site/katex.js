// A formula in TeX a line in, its HTML a line out, both as JSON.
const katex = require("katex");

require("readline").createInterface({ input: process.stdin }).on("line", line => {
  const { tex, displayMode } = JSON.parse(line);
  const answer = {};
  try {
    answer.html = katex.renderToString(tex, { displayMode, strict: "error" });
  } catch (error) {
    answer.error = error.message;
  }
  console.log(JSON.stringify(answer));
});
