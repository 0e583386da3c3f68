// A file that was asked for has come.
watch('value', () => {
  const made = props.value;
  if (made && made.file) offer(made.file.url, made.name);
});
