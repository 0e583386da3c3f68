// What the rooms beside Compare need, after assets/page/shared.js. `props.value` is what Python
// tells a room.

// Text and a shape, not a colour alone.
function outcome(kind, text, parent) {
  const node = make('span', 'outcome ' + kind, parent);
  if (kind) sign(kind, node);
  make('span', '', node, text);
  return node;
}

// A finished picture as a column of the bench, beside its own.
function pin(cell, preview, label) {
  dispatchEvent(
    new CustomEvent('nag-pin', { detail: { cell: { ...cell, preview, state: 'done' }, label } }),
  );
  openRoom('Compare');
}

function download(file) {
  offer(file.url, file.orig_name || '');
}

function visible() {
  return element.offsetParent !== null;
}

// What a room is saved as; a button of that class asks for it.
const SAVED = ['picture', 'zip', 'html'];
