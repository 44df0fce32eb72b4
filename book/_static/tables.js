// Long names in tables may break behind an underscore.
document.addEventListener("DOMContentLoaded", () => {
  for (const cell of document.querySelectorAll(".cell_output :is(th, td)"))
    for (const node of [...cell.childNodes])
      if (node.nodeType === Node.TEXT_NODE && /\w_\w/.test(node.data))
        node.replaceWith(...node.data.split(/(?<=\w_)(?=\w)/).flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part])));
});
